// The connection of a page, whose state is shown in #state, which every page has.

import { ChannelSocket } from "/client/fast-channels.js";

export const $ = (id) => document.getElementById(id);

let failures = 0; // Failed connections since the page was last ready.

export function showState(state, text, countdown = "") {
  $("state").dataset.state = state;
  // Set only if it has changed: screen readers read it out.
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
  $("countdown").textContent = countdown;
}

// Keep a WebSocket open. opened() is called with each new one, received() with each frame,
// lost() when one is lost, and ended() with the event when there are no further attempts.
// The returned object has send(), close() and open.
export function connect(path, { opened, received, lost = () => {}, ended = showEnd }) {
  const stop = () => clearInterval(timer);
  let timer;
  showState("connecting", "Connecting…");
  const socket = new ChannelSocket(path);
  socket.onopen = () => {
    stop();
    showState("connected", "Connected");
    opened?.();
  };
  socket.onmessage = (event) => received(event.data);
  socket.onerror = ({ delay }) => {
    lost();
    stop();
    timer = countDown(delay);
  };
  socket.onclose = (event) => {
    lost();
    stop();
    ended(event);
  };
  return {
    send: (content) => socket.send(content),
    close() {
      stop();
      socket.close();
    },
    get open() {
      return socket.readyState === ChannelSocket.OPEN;
    },
  };
}

function showEnd() {
  showState("disconnected", "Disconnected");
}

// Mark the page as ready; returns the number of connections that failed before.
export function ready() {
  const before = failures;
  failures = 0;
  return before;
}

function countDown(delay) {
  failures++;
  const due = Date.now() + delay;
  const tick = () => {
    const left = Math.ceil((due - Date.now()) / 1000);
    if (left > 0) showState("reconnecting", "Reconnecting", ` in ${left} s…`);
    else showState("reconnecting", "Reconnecting…");
  };
  tick();
  return setInterval(tick, 250);
}

// The same for another kind of connection: call a function after a while. Each further
// failure makes the wait longer, and a part of it is random.
export function retryLater(open) {
  const delay = Math.min(5000, 500 * 2 ** failures) * (1 + Math.random());
  const timer = countDown(delay);
  setTimeout(() => {
    clearInterval(timer);
    open();
  }, delay);
}
