// The microphone of the tab Live: what was spoken since the last request goes into the next one, as 16-bit samples.
const EVERY = 0.4; // seconds of sound in a request, or more where the machine is slower
const button = element.querySelector("button.microphone");
const answer = element.querySelector(".live-answer");
const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) {
      const mixed = new Int16Array(channels[0].length);
      for (let at = 0; at < mixed.length; at++) {
        let sum = 0;
        for (const channel of channels) sum += channel[at];
        mixed[at] = Math.max(-32768, Math.min(32767, Math.round((sum / channels.length) * 32768)));
      }
      this.port.postMessage(mixed, [mixed.buffer]);
    }
    return true;
  }
});`;
let live = null;

const say = (text) => {
  const note = document.createElement("div");
  note.className = "note alert";
  note.setAttribute("role", "alert");
  note.textContent = text;
  answer.replaceChildren(note);
};

const show = (running) => {
  button.textContent = running ? "Stop the microphone" : "Start the microphone";
  button.setAttribute("aria-pressed", String(running));
};

const coded = (pieces) => {
  let text = "";
  for (const piece of pieces) text += String.fromCharCode(...new Uint8Array(piece.buffer));
  return btoa(text);
};

const send = async (session) => {
  if (session.busy || session.samples < EVERY * session.context.sampleRate) return;
  session.busy = true;
  const pieces = session.pieces;
  session.pieces = [];
  session.samples = 0;
  try {
    const reply = await server.hear(session.key, session.context.sampleRate, coded(pieces));
    if (live !== session && !reply.over) return;
    answer.innerHTML = reply.html;
    if (reply.over) stop(session);
  } catch {
    stop(session);
    say("The server does not answer: look whether it still runs, then press the button again.");
  } finally {
    session.busy = false;
  }
};

const stop = (session) => {
  if (live === session) live = null;
  for (const track of session.stream.getTracks()) track.stop();
  session.context.close();
  show(false);
  server.close(session.key).catch(() => {});
};

const start = async () => {
  if (!navigator.mediaDevices?.getUserMedia) {
    say("Your browser gives no microphone to this page: it must come from https, or from this machine itself.");
    return;
  }
  button.disabled = true;
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const context = new AudioContext();
    const script = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
    await context.audioWorklet.addModule(script);
    URL.revokeObjectURL(script);
    const tap = new AudioWorkletNode(context, "tap", { numberOfOutputs: 0 });
    context.createMediaStreamSource(stream).connect(tap);
    const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const session = { key, stream, context, pieces: [], samples: 0, busy: false };
    tap.port.onmessage = ({ data }) => {
      if (live !== session) return;
      session.pieces.push(data);
      session.samples += data.length;
      send(session);
    };
    live = session;
    show(true);
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    say(refused ? "The microphone was refused: allow it in the browser's address bar." : "No microphone was found.");
  } finally {
    button.disabled = false;
  }
};

button.addEventListener("click", () => (live ? stop(live) : start()));
