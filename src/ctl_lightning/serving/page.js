// Tells Gradio what a visitor does within one of the page's pieces of HTML. Gradio runs this once a piece, and gives it
// `element`, the piece; `trigger`, which has an event answered; and `watch`, which tells of another value.

const at = { x: 0.5, y: 0.5 }; // the mark that the arrow keys move over the scene, from 0 to 1
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const within = (value) => Math.min(1, Math.max(0, value));

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (!button.matches(".mark")) {
    trigger("click", { ...button.dataset });
  } else if (event.detail === 0) {
    trigger("click", { corner: [at.x, at.y] }); // by a key
  } else {
    const photo = button.querySelector("img").getBoundingClientRect();
    const x = (event.clientX - photo.left) / photo.width, y = (event.clientY - photo.top) / photo.height;
    trigger("click", { corner: [within(x), within(y)] });
  }
});

element.addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step || !event.target.matches(".mark")) return;
  event.preventDefault(); // the page stays where it is
  at.x = within(at.x + 0.02 * step[0]);
  at.y = within(at.y + 0.02 * step[1]);
  element.style.setProperty("--x", at.x);
  element.style.setProperty("--y", at.y);
});

// New products come into view where they would be out of it, and the focus follows where its button is gone.
let shown = "";
const bringIntoView = () => {
  const heading = element.querySelector("h2");
  const photo = document.querySelector("#scene img")?.src;
  if (!heading || photo === shown) return; // other categories of the same photo
  shown = photo;
  const focused = document.activeElement;
  if (focused === document.body || element.contains(focused)) heading.focus({ preventScroll: true });
  const narrow = matchMedia("(max-width: 900px)").matches;
  const top = element.getBoundingClientRect().top;
  if (!narrow && top >= 0) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  scrollTo({ top: scrollY + top, behavior: calm ? "auto" : "smooth" });
};
if (element.closest("#found")) watch("value", () => setTimeout(bringIntoView, 50)); // once the scene is there, too
if (element.closest("#note")) {
  watch("value", () => element.querySelector(".wrong")?.scrollIntoView({ block: "nearest" }));
}
