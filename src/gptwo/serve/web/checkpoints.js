// The slider over a run's checkpoints: every panel is redrawn with the model as it was at that step.

import { debounced, h } from "./dom.js";
import { number, t } from "./i18n.js";

const SLIDE_PAUSE_MS = 80;

const grow = new WeakMap();

/** Fills `root`, or hides it where the model has no checkpoints. `set` changes the state, and ends when all is redrawn. */
export function checkpointSlider(root, { model, state, set }) {
  // The array changes while the run trains: new checkpoints come, and old ones may go.
  const steps = () => model.checkpoints;
  grow.delete(root);
  root.hidden = steps() === null || steps().length < 2;
  if (root.hidden) return root.replaceChildren();
  const at = () => {
    const step = state.checkpoint ?? state.explanation?.checkpoint ?? steps().at(-1);
    return Math.max(0, steps().indexOf(step));
  };
  const output = h("output", { for: "checkpoint-at" });
  const say = (step) => {
    output.textContent = t("shell.checkpoint_step", { step: number(step) });
    input.setAttribute("aria-valuetext", output.textContent);
  };
  const choose = debounced((step) => set({ checkpoint: step, position: state.position }), SLIDE_PAUSE_MS);
  const input = h("input", {
    type: "range", id: "checkpoint-at", min: 0, max: steps().length - 1, step: 1, value: at(), on: {
      input: () => {
        const step = steps()[input.valueAsNumber];
        say(step);
        choose(step);
      },
    },
  });
  const play = h("button", {
    type: "button", class: "quiet", text: t("shell.play"), on: {
      click: async () => {
        play.disabled = true;
        for (let [step] = steps(); step !== undefined && root.contains(play); step = steps().find((later) => later > step)) {
          input.value = steps().indexOf(step);
          say(step);
          await set({ checkpoint: step, position: state.position });
        }
        play.disabled = false;
      },
    },
  });
  say(steps()[at()]);
  grow.set(root, () => {
    input.max = steps().length - 1;
    input.value = at();
    say(steps()[at()]);
  });
  return root.replaceChildren(h("label", { for: "checkpoint-at", text: t("shell.checkpoint") }), input, output, play);
}

/** After the model's checkpoints changed: the slider stays what it is, with its focus, and "Play" goes on. */
export function growSlider(root, app) {
  if (grow.has(root) && app.model.checkpoints?.length >= 2) grow.get(root)();
  else checkpointSlider(root, app);
}

/** Whether another checkpoint than the one that is served is looked at: that one neither writes nor is timed. */
export function isElsewhere({ state: { checkpoint }, model: { checkpoint: served, checkpoints } }) {
  return checkpoint !== null && checkpoints !== null && checkpoint !== served;
}
