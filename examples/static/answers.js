// The page of an answer. What the server sends is described at the top of answers.py.

import { $, connect, ready, showState } from "./connection.js";

let close = () => {}; // Closes the present connection.

// The answer is named in the address, after the "#".
function show() {
  close();
  const answer = location.hash.slice(1);
  $("answer").textContent = "";
  $("answer").hidden = $("elsewhere").hidden = !answer;
  $("second-tab").href = location.href;
  if (!answer) return showState("idle", "Ask a question");
  const path = encodeURIComponent(answer);
  close = kind() === "socket" ? openSocket(path) : openEvents(path);
}

function add({ text, again }) {
  if (again) $("answer").textContent = "";
  else $("answer").textContent += text;
}

// The browser reconnects by itself, and sends the position of the last event.
function openEvents(answer) {
  showState("connecting", "Connecting…");
  const events = new EventSource(`/answers/${answer}/events`);
  events.onopen = () => showState("connected", "Connected");
  events.onmessage = (event) => add(JSON.parse(event.data));
  events.onerror = () => {
    if (events.readyState === EventSource.CONNECTING) showState("reconnecting", "Reconnecting…");
    else showState("disconnected", "There is no such answer.");
  };
  events.addEventListener("done", () => {
    events.close();
    showState("done", "Done");
  });
  return () => events.close();
}

function openSocket(answer) {
  const socket = connect(`/ws/answers/${answer}`, {
    opened: ready,
    received: (frame) => add(JSON.parse(frame)),
    ended({ code, reason }) {
      if (code === 1000) showState("done", "Done");
      else showState("disconnected", reason);
    },
  });
  return () => socket.close();
}

function kind() {
  return document.querySelector("[name=kind]:checked").value;
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  $("problem").textContent = text ? "" : "Enter a question of 1 to 200 characters.";
  if (!text) return $("text").focus();
  try {
    const response = await fetch("/answers", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text }),
    });
    if (!response.ok) throw new Error(response.statusText);
    location.hash = (await response.json()).answer;
  } catch {
    $("problem").textContent = "Not asked: the server cannot be reached. Try again in a moment.";
  }
});

const chosen = sessionStorage.getItem("answers.kind") ?? "events";
document.querySelector(`[name=kind][value=${chosen}]`).checked = true;
$("kinds").addEventListener("change", () => {
  sessionStorage.setItem("answers.kind", kind());
  show();
});
addEventListener("hashchange", show);
show();
