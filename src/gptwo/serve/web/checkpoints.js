// The slider over a run's checkpoints: every panel is redrawn with the model as it was at that step.

import { debounced, h } from "./dom.js";
import { number, t } from "./i18n.js";

const SLIDE_PAUSE_MS = 80;

/** Fills `root`, or hides it where the model has no checkpoints. `set` changes the state, and ends when all is redrawn. */
export function checkpointSlider(root, { model, state, set }) {
  const steps = model.checkpoints;
  root.hidden = steps === null || steps.length < 2;
  if (root.hidden) return;
  const at = () => {
    const step = state.checkpoint ?? state.explanation?.checkpoint ?? steps.at(-1);
    return Math.max(0, steps.indexOf(step));
  };
  const output = h("output", { for: "checkpoint-at" });
  const say = (i) => {
    output.textContent = t("shell.checkpoint_step", { step: number(steps[i]) });
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const choose = debounced((i) => set({ checkpoint: steps[i], position: state.position }), SLIDE_PAUSE_MS);
  const input = h("input", {
    type: "range", id: "checkpoint-at", min: 0, max: steps.length - 1, step: 1, value: at(), on: {
      input: () => {
        say(input.valueAsNumber);
        choose(input.valueAsNumber);
      },
    },
  });
  const play = h("button", {
    type: "button", class: "quiet", text: t("shell.play"), on: {
      click: async () => {
        play.disabled = true;
        for (let i = 0; i < steps.length && root.contains(play); i += 1) {
          input.value = i;
          say(i);
          await set({ checkpoint: steps[i], position: state.position });
        }
        play.disabled = false;
      },
    },
  });
  say(at());
  root.replaceChildren(h("label", { for: "checkpoint-at", text: t("shell.checkpoint") }), input, output, play);
}

/** Whether another checkpoint than the one that is served is looked at: that one neither writes nor is timed. */
export function isElsewhere({ state: { checkpoint }, model: { checkpoint: served, checkpoints } }) {
  return checkpoint !== null && checkpoints !== null && checkpoint !== served;
}
