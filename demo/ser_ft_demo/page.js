// Without https browsers give a page no microphone: the page then says so.
if (!window.isSecureContext) document.documentElement.classList.add("insecure");

// The numbers in a timeline lead to their moments, and play them.
document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#moment-"]');
  if (!link) return;
  event.preventDefault();
  const moment = link.closest(".call")?.querySelector(link.getAttribute("href"));
  const player = moment?.querySelector("audio");
  if (!player) return;
  moment.scrollIntoView({ block: "nearest" });
  player.focus();
  player.currentTime = 0;
  player.play();
});

// One voice at a time.
document.addEventListener(
  "play",
  (event) => {
    for (const player of document.querySelectorAll("audio")) if (player !== event.target) player.pause();
  },
  true,
);

// Browsers call a .webm a video, and what they do not know by no name at all; gradio then refuses it in many words. The
// server looks at the sound itself, and says in one sentence what is wrong with it.
const heard = (file) => file.type.startsWith("audio/");
const asSound = (files) => {
  const renamed = new DataTransfer();
  for (const file of files) renamed.items.add(heard(file) ? file : new File([file], file.name, { type: "audio/other" }));
  return renamed.files;
};
document.addEventListener(
  "change",
  (event) => {
    const input = event.target;
    if (input.type === "file" && ![...input.files].every(heard)) input.files = asSound(input.files);
  },
  true,
);
document.addEventListener(
  "drop",
  (event) => {
    const dropped = event.dataTransfer?.files ?? [];
    const input = event.target.closest?.(".block")?.querySelector('input[type="file"]');
    if (!input || !dropped.length || [...dropped].every(heard)) return;
    event.preventDefault();
    event.stopPropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    input.files = asSound(dropped);
    input.dispatchEvent(new Event("change", { bubbles: true }));
  },
  true,
);
