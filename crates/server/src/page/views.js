// The views of the page: chat, documents and search, by the fragment of the address.

import { $ } from "./dom.js";

const FIRST = { chat: "message", documents: "text", search: "texts" };

// Shows the view that the address names, and returns its name.
export function showView() {
  const found = location.hash.slice(1);
  // Other fragments, such as that of the link that skips to the message, belong to the chat.
  const view = Object.hasOwn(FIRST, found) ? found : "chat";
  for (const name of Object.keys(FIRST)) $(name).hidden = name !== view;
  for (const link of $("views").children) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (found === "message") $("message").focus();
  return view;
}

// Goes to a view at once, since what is hidden cannot get the focus.
export function goTo(view) {
  const link = [...$("views").children].find((one) => one.hash === `#${view}`);
  if (link.hidden) return;
  location.hash = link.hash;
  showView();
  $(FIRST[view]).focus();
}
