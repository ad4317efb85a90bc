// Browsers do not let pages without https use the microphone; the page then shows a note.
if (!window.isSecureContext) document.documentElement.classList.add("insecure");

// The numbers in a timeline play their highlights.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#highlight-"]');
  if (!link) return;
  event.preventDefault();
  const highlight = link.closest(".conversation")?.querySelector(link.getAttribute("href"));
  const player = highlight?.querySelector("audio");
  if (!player) return;
  highlight.scrollIntoView({ block: "nearest" });
  player.focus();
  player.currentTime = 0;
  player.play();
});

// Only one recording plays at a time.
document.addEventListener(
  "play",
  (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  },
  true,
);

// Browsers report .webm as video and no type for unknown files, and gradio would refuse both with a long message. The
// server decodes the file instead, and reports an error in one sentence.
const isAudio = (file) => file.type.startsWith("audio/");
const asAudio = (files) => {
  const renamed = new DataTransfer();
  for (const file of files) renamed.items.add(isAudio(file) ? file : new File([file], file.name, { type: "audio/other" }));
  return renamed.files;
};
document.addEventListener(
  "change",
  (event) => {
    const input = event.target;
    if (input.type === "file" && ![...input.files].every(isAudio)) input.files = asAudio(input.files);
  },
  true,
);
document.addEventListener(
  "drop",
  (event) => {
    const dropped = event.dataTransfer?.files ?? [];
    const input = event.target.closest?.(".block")?.querySelector('input[type="file"]');
    if (!input || !dropped.length || [...dropped].every(isAudio)) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    input.files = asAudio(dropped);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  },
  true,
);
