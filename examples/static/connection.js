// A WebSocket that reconnects. Its state is shown in #state, which every page has.

export const $ = (id) => document.getElementById(id);

let failures = 0; // Failed connections since the page was last ready.

export function showState(state, text, countdown = "") {
  $("state").dataset.state = state;
  // Set only if it has changed: screen readers read it out.
  if ($("state-text").textContent !== text) $("state-text").textContent = text;
  $("countdown").textContent = countdown;
}

// Keep a WebSocket open. opened() is called with each new one, received() with each frame.
// closed() is called with the event when one has ended; if it returns true, there are no
// further attempts. The returned object has send() and open.
export function connect(path, { opened = () => {}, received, closed = () => {} }) {
  let socket;
  let retry; // The timer of the next attempt; undefined if there is none.

  function open() {
    clearTimeout(retry);
    retry = undefined;
    if (failures) showState("reconnecting", "Reconnecting…");
    else showState("connecting", "Connecting…");
    const url = new URL(path, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    socket = new WebSocket(url);
    socket.onopen = () => {
      showState("connected", "Connected");
      opened();
    };
    socket.onmessage = (event) => received(event.data);
    socket.onclose = (event) => {
      if (closed(event)) showState("disconnected", "Disconnected");
      else retryLater(open, (timer) => (retry = timer));
    };
  }

  function now() {
    if (retry !== undefined && document.visibilityState === "visible") open();
  }

  addEventListener("online", now);
  document.addEventListener("visibilitychange", now);
  open();
  return {
    send: (content) => socket.send(content),
    get open() {
      return socket.readyState === WebSocket.OPEN;
    },
  };
}

// Mark the page as ready; returns the number of connections that failed before.
export function ready() {
  const before = failures;
  failures = 0;
  return before;
}

// Wait for 0.5 to 1 s after the first failure, then longer, but never beyond 10 s. The
// random part keeps browsers from reconnecting all at once.
export function retryLater(open, keep = () => {}) {
  const delay = Math.min(5000, 500 * 2 ** failures++) * (1 + Math.random());
  const due = Date.now() + delay;
  const tick = () => {
    const left = due - Date.now();
    if (left <= 0) return open();
    showState("reconnecting", "Reconnecting", ` in ${Math.ceil(left / 1000)} s…`);
    keep(setTimeout(tick, left % 1000 || 1000));
  };
  tick();
}
