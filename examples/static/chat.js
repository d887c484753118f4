// The page of a room. The messages between browser and server are described at the top
// of chat.py.

import { $, connect, ready, showState } from "./connection.js";

const BAD_ROOM = 4400; // The close code after which reconnecting is pointless.
const ROOM_NAME = /^[A-Za-z0-9_-]{1,50}$/;

const inLobby = location.pathname === "/";
const room = inLobby ? "lobby" : decode(location.pathname.slice("/room/".length));

// A tab keeps its name; a new tab begins with the last chosen name.
let name = sessionStorage.getItem("chat.name") ?? localStorage.getItem("chat.name") ?? "";
let id; // The ID of this connection, by which it knows what it has sent itself.
let visits = 0; // The number of times that this page has joined the room.
let sending; // The timer of a pending message; undefined if no answer is pending.

// The connection

let socket;

function enter() {
  socket = connect(inLobby ? "/ws/lobby" : `/ws${location.pathname}`, {
    opened: join,
    received(frame) {
      const content = JSON.parse(frame);
      const echo = "from" in content && content.from === id;
      if (!echo) handlers[content.type](content);
    },
    closed(event) {
      answered();
      allowWriting(false);
      if (event.code === BAD_ROOM) refuse(event.reason);
      return event.code === BAD_ROOM;
    },
  });
}

function send(content) {
  socket.send(JSON.stringify(content));
}

function join() {
  if (name && socket.open) send({ type: "join", name });
}

// Messages from the server: a function for each type

const handlers = {
  joined(joined) {
    id = joined.id;
    const wasAway = ready() > 0;
    if (visits++ && wasAway) addNotice("You are back. What was written meanwhile is not shown.");
    allowWriting(true);
  },
  notice({ event, name }) {
    addNotice(`${name} ${event === "join" ? "joined" : "left"}`);
  },
  message(message) {
    if (message.own) {
      text.value = "";
      answered();
    }
    addMessage(message);
  },
  error({ detail }) {
    answered();
    showError(detail);
  },
};

// The conversation

const log = $("log");

function addMessage({ name: author, text, time, own }) {
  const message = $("message").content.firstElementChild.cloneNode(true);
  const find = (selector) => message.querySelector(selector);
  const date = new Date(time);
  message.dataset.author = `${own} ${author}`;
  message.classList.toggle("own", own);
  message.classList.toggle("more", log.lastElementChild?.dataset.author === message.dataset.author);
  find(".avatar").textContent = [...author][0].toUpperCase();
  find(".avatar").style.setProperty("--hue", hue(author));
  find(".author").textContent = author;
  find("time").dateTime = time;
  find("time").title = date.toLocaleString();
  find("time").textContent = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  find(".text").textContent = text;
  $("empty").hidden = true;
  append(message);
}

function addNotice(text) {
  const notice = document.createElement("p");
  notice.className = "notice";
  notice.textContent = text;
  append(notice);
}

// Scroll to new messages only if the page is already at the end.
function append(element) {
  const follow = atEnd();
  log.append(element);
  if (follow) scrollToEnd();
  else $("newer").hidden = false;
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
}

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
}

let wasAtEnd = true;
log.addEventListener("scroll", () => {
  wasAtEnd = atEnd();
  if (wasAtEnd) $("newer").hidden = true;
});
// The log changes its height when a phone shows its keyboard or a draft grows.
new ResizeObserver(() => wasAtEnd && scrollToEnd()).observe(log);

$("newer").addEventListener("click", () => {
  scrollToEnd();
  $("text").focus();
});

// A colour for a name: the same one in every browser.
function hue(author) {
  let sum = 0;
  for (const letter of author) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

// The composer

const text = $("text");
let hadFocus = false;

function allowWriting(allowed) {
  if (!allowed) hadFocus ||= document.activeElement === text;
  $("writing").disabled = !allowed;
  if (allowed && hadFocus) text.focus();
  if (allowed) hadFocus = false;
}

// A draft stays until the server confirms the message, so that it can be sent again.
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const draft = text.value.trim();
  if (draft && sending === undefined && socket.open) {
    send({ type: "message", text: draft });
    sending = setTimeout(() => showState("sending", "Sending…"), 500);
    text.readOnly = true;
    hideError();
    scrollToEnd();
  }
  text.focus();
});

function answered() {
  if (sending === undefined) return;
  clearTimeout(sending);
  sending = undefined;
  text.readOnly = false;
  showState("connected", "Connected");
}

text.addEventListener("keydown", (event) => {
  // While characters are composed, as in Japanese, Enter chooses one of them.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

function showError(detail) {
  $("error-text").textContent = detail;
  $("error").hidden = false;
}

function hideError() {
  $("error").hidden = true;
}

$("error-close").addEventListener("click", () => {
  hideError();
  text.focus();
});

// The name

function askName() {
  $("name").value = name;
  $("name-cancel").hidden = !name;
  $("name-submit").textContent = name ? "Change name" : "Join the chat";
  setProblem("name", "");
  $("name-dialog").showModal();
}

$("me").addEventListener("click", askName);
$("name-cancel").addEventListener("click", () => $("name-dialog").close());
$("name-form").addEventListener("submit", (event) => {
  const chosen = $("name").value.trim();
  setProblem("name", chosen ? "" : "Enter a name of 1 to 40 characters.");
  if (!chosen) return event.preventDefault();
  if (chosen === name) return;
  name = chosen;
  for (const storage of [sessionStorage, localStorage]) storage.setItem("chat.name", name);
  showName();
  hadFocus = true;
  join();
});

function showName() {
  $("me").textContent = name || "Choose a name";
}

// The other rooms

$("room-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const chosen = $("room-name").value.trim();
  if (ROOM_NAME.test(chosen)) location.assign(`/room/${chosen}`);
  else setProblem("room-name", "Use 1 to 50 letters (A–Z), digits, hyphens and underscores.");
});
$("room-name").addEventListener("input", () => setProblem("room-name", ""));

function refuse(reason) {
  $("refused-reason").textContent = reason;
  $("refused").hidden = false;
  $("empty").hidden = true;
  $("name-dialog").close();
}

// Small things

function setProblem(field, problem) {
  $(field).setAttribute("aria-invalid", String(Boolean(problem)));
  $(`${field.replace("-name", "")}-problem`).textContent = problem;
  if (problem) $(field).focus();
}

function decode(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path; // Not a valid name either; the server refuses it.
  }
}

const title = inLobby ? "Lobby" : room;
$("room").textContent = title;
document.title = `${title} · fast_channels chat`;
$("second-tab").href = location.pathname;
if (inLobby) $("lobby").setAttribute("aria-current", "page");
showName();
enter();
if (!name) askName();
