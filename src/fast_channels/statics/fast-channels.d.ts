/** The options of a {@link ChannelSocket}. */
export interface ChannelSocketOptions {
  /** The subprotocols to offer. */
  protocols?: string | string[];
  /** The position to resume from at first; none by default. */
  since?: string | null;
  /** The parameter of the URL that carries the position, "since" by default; null for none. */
  parameter?: string | null;
  /**
   * Returns the position of a message, if it has one. By default, the key "position" of
   * messages in JSON.
   */
  positionOf?: ((data: any) => string | null | undefined) | null;
  /**
   * Called when the server closes with 4401: get a new token or cookie. It reconnects when
   * this is done; the end is final if this returns or resolves to false, or fails.
   */
  renew?: () => unknown;
  /** Milliseconds, at most, before the second attempt, 1000 by default; it doubles for each further one. */
  minDelay?: number;
  /** Milliseconds, at most, between two attempts; 10000 by default. */
  maxDelay?: number;
  /** The type of binary messages; "blob" by default. */
  binaryType?: BinaryType;
}

/** The connection is lost, or could not be opened; there will be another attempt. */
export interface ChannelSocketErrorEvent extends Event {
  readonly code: number;
  readonly reason: string;
  /** Milliseconds until the next attempt. */
  readonly delay: number;
}

/** The connection has ended for good. */
export interface ChannelSocketCloseEvent extends Event {
  readonly code: number;
  readonly reason: string;
}

export interface ChannelSocketEventMap {
  open: Event;
  message: MessageEvent;
  error: ChannelSocketErrorEvent;
  close: ChannelSocketCloseEvent;
}

/** A WebSocket that is opened again whenever it is lost, and resumes where it was. */
export class ChannelSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSED: 2;

  /**
   * @param url The address, absolute or relative to the page. A function is called before
   * each attempt, and puts the position into the address itself.
   */
  constructor(
    url: string | URL | ((position: string | null) => string | URL | Promise<string | URL>),
    options?: ChannelSocketOptions,
  );

  /** CONNECTING, which includes waiting for the next attempt, OPEN or CLOSED. */
  readonly readyState: 0 | 1 | 2;
  /** The position of the last message, from which it resumes. */
  position: string | null;

  onopen: ((event: Event) => void) | null;
  onmessage: ((event: MessageEvent) => void) | null;
  onerror: ((event: ChannelSocketErrorEvent) => void) | null;
  onclose: ((event: ChannelSocketCloseEvent) => void) | null;

  /** Send a text or bytes. Returns false, and sends nothing, unless it is open. */
  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): boolean;
  /** Open a new connection now, in place of the present one or of the next attempt. */
  reconnect(): void;
  /** End the connection for good. There is no event for it. */
  close(code?: number, reason?: string): void;

  addEventListener<K extends keyof ChannelSocketEventMap>(
    type: K,
    listener: (this: ChannelSocket, event: ChannelSocketEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof ChannelSocketEventMap>(
    type: K,
    listener: (this: ChannelSocket, event: ChannelSocketEventMap[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
}
