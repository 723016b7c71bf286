// Pages are whole without this file. It copies, goes to the search with "/", and follows changes.

const copy = async (button) => {
  await navigator.clipboard.writeText(button.dataset.copy);
  const word = button.firstChild;
  word.data = "Copied";
  setTimeout(() => { word.data = "Copy"; }, 1500);
};

const offerCopies = (within) => {
  if (!navigator.clipboard) return;
  for (const button of within.querySelectorAll("button.copy")) button.hidden = false;
};

offerCopies(document);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.getElementById("q");
  if (!search) return;
  event.preventDefault();
  search.focus();
});

// Each event "change" is {id, html}: the element of that id, made anew by the macro of its page.
// An element that holds the focus waits until the focus has left it.
const waiting = new Map();
const replace = (id, html) => {
  const old = document.getElementById(id);
  if (!old) return;
  if (old.contains(document.activeElement)) {
    waiting.set(id, html);
    return;
  }
  const made = document.createElement("template");
  made.innerHTML = html;
  offerCopies(made.content);
  old.replaceWith(made.content);
};
document.addEventListener("focusout", () => setTimeout(() => {
  const held = [...waiting];
  waiting.clear();
  for (const [id, html] of held) replace(id, html);
}));
if (document.body.dataset.live) {
  const changes = new EventSource(document.body.dataset.live);
  changes.addEventListener("change", (event) => {
    const { id, html } = JSON.parse(event.data);
    waiting.delete(id);
    replace(id, html);
  });
  changes.addEventListener("end", () => changes.close());
}
