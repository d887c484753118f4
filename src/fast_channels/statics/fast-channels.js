// A WebSocket that reconnects, and resumes where it was; see the guide "A client for
// browsers". It has no dependencies, and runs as it is in browsers and in workers.

const UNAUTHORIZED = 4401; // The session is missing or has expired.
const NORMAL = 1000; // The server has closed the connection on purpose.
// Milliseconds after which an open connection counts as a success.
const STABLE = 5000;

/**
 * A connection that is opened again whenever it is lost.
 *
 * Its events are those of an EventSource, with "close" in addition:
 *
 * - "open": the connection is open, for the first time or again.
 * - "message": a MessageEvent. Its lastEventId is the position of the message.
 * - "error": the connection is lost, or could not be opened. The event has the code, the
 *   reason and the delay, the milliseconds until the next attempt.
 * - "close": the connection has ended for good. The event has the code and the reason.
 *
 * The server ends it for good with code 1000, and with a code from 4000 to 4999. After
 * 4401, renew() is called instead, if there is one.
 */
export class ChannelSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;

  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;

  #url;
  #options;
  #socket = null;
  #position;
  #state = ChannelSocket.CONNECTING;
  #failures = 0; // Since the last success.
  #retry; // The timer of the next attempt; undefined if there is none.
  #stable; // The timer after which the connection counts as a success.
  #renewed = false; // Whether renew() was called since the last success.
  #attempt = 0; // Counts attempts, so that one that is outdated is ignored.

  constructor(url, options = {}) {
    super();
    this.#url = url;
    this.#options = {
      minDelay: 1000,
      maxDelay: 10_000,
      parameter: "since",
      positionOf,
      ...options,
    };
    this.#position = options.since ?? null;
    globalThis.addEventListener("online", this.#hurry);
    globalThis.document?.addEventListener("visibilitychange", this.#hurry);
    this.#open();
  }

  /** Whether it is CONNECTING, which includes waiting for the next attempt, OPEN or CLOSED. */
  get readyState() {
    return this.#state;
  }

  /** The position of the last message, from which it resumes; null if there is none. */
  get position() {
    return this.#position;
  }

  set position(position) {
    this.#position = position;
  }

  /** Send a text or bytes. Returns false, and sends nothing, unless it is open. */
  send(data) {
    if (this.#state !== ChannelSocket.OPEN) return false;
    this.#socket.send(data);
    return true;
  }

  /** Open a new connection now, in place of the present one or of the next attempt. */
  reconnect() {
    if (this.#state === ChannelSocket.CLOSED) return;
    this.#drop();
    this.#open();
  }

  /** End the connection for good. There is no event for it. */
  close(code = NORMAL, reason = "") {
    if (this.#state === ChannelSocket.CLOSED) return;
    this.#state = ChannelSocket.CLOSED;
    this.#drop(code, reason);
    this.#forget();
  }

  async #open() {
    const attempt = ++this.#attempt;
    this.#state = ChannelSocket.CONNECTING;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    let socket;
    try {
      const url = await this.#address();
      if (attempt !== this.#attempt) return;
      socket = new WebSocket(url, this.#options.protocols ?? []);
    } catch (error) {
      // A url() that has failed, for example because the browser is offline.
      if (attempt === this.#attempt) this.#lost(1006, String(error));
      return;
    }
    if (this.#options.binaryType) socket.binaryType = this.#options.binaryType;
    this.#socket = socket;
    socket.onopen = () => {
      this.#state = ChannelSocket.OPEN;
      this.#stable = setTimeout(() => {
        this.#failures = 0;
        this.#renewed = false;
      }, STABLE);
      this.#emit(new Event("open"));
    };
    socket.onmessage = ({ data, origin }) => this.#received(data, origin);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  async #address() {
    const url = typeof this.#url === "function" ? await this.#url(this.#position) : this.#url;
    const absolute = new URL(url, globalThis.location?.href);
    absolute.protocol = absolute.protocol.replace(/^http/, "ws");
    const parameter = this.#options.parameter;
    if (typeof this.#url !== "function" && parameter && this.#position !== null) {
      absolute.searchParams.set(parameter, this.#position);
    }
    return absolute;
  }

  #received(data, origin) {
    this.#failures = 0;
    const position = this.#options.positionOf?.(data);
    if (typeof position === "string" && position) this.#position = position;
    this.#emit(new MessageEvent("message", { data, origin, lastEventId: this.#position ?? "" }));
  }

  async #closed(code, reason) {
    this.#drop();
    const renew = code === UNAUTHORIZED && this.#options.renew;
    if (renew) {
      const attempt = ++this.#attempt;
      this.#state = ChannelSocket.CONNECTING;
      let renewed;
      try {
        renewed = (await renew()) !== false;
      } catch (error) {
        renewed = false;
        reason = String(error);
      }
      if (attempt !== this.#attempt) return; // close() or reconnect() was called.
      // At once for the first time only: the server can refuse what is new, too.
      const again = this.#renewed;
      this.#renewed = true;
      if (!renewed) this.#end(code, reason);
      else if (again) this.#lost(code, reason);
      else this.#open();
    } else if (code === NORMAL || (code >= 4000 && code <= 4999)) {
      this.#end(code, reason);
    } else {
      this.#lost(code, reason);
    }
  }

  // Half of the delay is random, which keeps browsers from reconnecting all at once.
  #lost(code, reason) {
    const { minDelay, maxDelay } = this.#options;
    const longest = Math.min(maxDelay, minDelay * 2 ** this.#failures++);
    const delay = longest * (0.5 + Math.random() / 2);
    this.#state = ChannelSocket.CONNECTING;
    this.#retry = setTimeout(() => this.#open(), delay);
    this.#emit(Object.assign(new Event("error"), { code, reason, delay }));
  }

  #end(code, reason) {
    this.#state = ChannelSocket.CLOSED;
    this.#forget();
    this.#emit(Object.assign(new Event("close"), { code, reason }));
  }

  // Let go of the present connection and of any attempt.
  #drop(code = NORMAL, reason = "") {
    this.#attempt++;
    clearTimeout(this.#retry);
    clearTimeout(this.#stable);
    this.#retry = undefined;
    const socket = this.#socket;
    this.#socket = null;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close(code, reason);
    }
  }

  #forget() {
    globalThis.removeEventListener("online", this.#hurry);
    globalThis.document?.removeEventListener("visibilitychange", this.#hurry);
  }

  // Do not wait when the network is back, or when the user looks at the page again.
  #hurry = () => {
    if (this.#retry === undefined || globalThis.document?.visibilityState === "hidden") return;
    this.#open();
  };

  #emit(event) {
    this[`on${event.type}`]?.(event);
    this.dispatchEvent(event);
  }
}

// The key "position" of a message in JSON.
function positionOf(data) {
  if (typeof data !== "string") return undefined;
  try {
    return JSON.parse(data)?.position;
  } catch {
    return undefined;
  }
}
