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
