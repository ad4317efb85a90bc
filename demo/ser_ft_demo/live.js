// The microphone of the tab Live: each request sends the 16-bit samples recorded since the last one.
const MIN_SECONDS = 0.4; // of sound in a request; more on slow machines
const button = element.querySelector("button.microphone");
const result = element.querySelector(".live-result");
const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) {
      const mixed = new Int16Array(channels[0].length);
      for (let index = 0; index < mixed.length; index++) {
        let sum = 0;
        for (const channel of channels) sum += channel[index];
        mixed[index] = Math.max(-32768, Math.min(32767, Math.round((sum / channels.length) * 32768)));
      }
      this.port.postMessage(mixed, [mixed.buffer]);
    }
    return true;
  }
});`;
let live = null;

const showError = (text) => {
  const note = document.createElement("div");
  note.className = "note alert";
  note.setAttribute("role", "alert");
  note.textContent = text;
  result.replaceChildren(note);
};

const setRunning = (running) => {
  button.textContent = running ? "Stop the microphone" : "Start the microphone";
  button.setAttribute("aria-pressed", String(running));
};

const encode = (pieces) => {
  let text = "";
  for (const piece of pieces) text += String.fromCharCode(...new Uint8Array(piece.buffer));
  return btoa(text);
};

const send = async (session) => {
  if (session.busy || session.samples < MIN_SECONDS * session.context.sampleRate) return;
  session.busy = true;
  const pieces = session.pieces;
  session.pieces = [];
  session.samples = 0;
  try {
    const reply = await server.feed(session.key, session.context.sampleRate, encode(pieces));
    if (live !== session && !reply.ended) return;
    result.innerHTML = reply.html;
    if (reply.ended) stop(session);
  } catch {
    stop(session);
    showError("The server does not respond: check that it is running, then press the button again.");
  } finally {
    session.busy = false;
  }
};

const stop = (session) => {
  if (live === session) live = null;
  for (const track of session.stream.getTracks()) track.stop();
  session.context.close();
  setRunning(false);
  server.close(session.key).catch(() => {});
};

const start = async () => {
  if (!navigator.mediaDevices?.getUserMedia) {
    showError("Your browser does not let this page use the microphone: the page must be served with https, or from this machine.");
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
    setRunning(true);
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    showError(refused ? "Access to the microphone was denied: allow it in the address bar of the browser." : "No microphone was found.");
  } finally {
    button.disabled = false;
  }
};

button.addEventListener("click", () => (live ? stop(live) : start()));
