// The dialog that asks for the key of a server that wants one.

import { t } from "./i18n.js";

/** The key that is typed; null when the dialog is left without one. `wrong`: the last one did not fit. */
export async function askKey(wrong) {
  const element = (id) => document.getElementById(id);
  const dialog = element("key-dialog");
  element("key-problem").textContent = wrong ? t("shell.key_wrong") : "";
  element("key-problem").hidden = !wrong;
  element("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((done) => {
    dialog.addEventListener("close", done, { once: true });
  });
  return dialog.returnValue === "use" ? element("key").value : null;
}
