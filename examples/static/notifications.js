import { $, connect, ready } from "./connection.js";

function add({ text, source }) {
  const item = document.createElement("li");
  const from = document.createElement("small");
  from.textContent = `from ${source}, ${new Date().toLocaleTimeString()}`;
  const words = document.createElement("p");
  words.textContent = text;
  words.dir = "auto";
  item.append(words, from);
  $("list").prepend(item);
}

const handlers = { ready, notification: add };

connect("/ws/notifications", {
  received(frame) {
    const content = JSON.parse(frame);
    handlers[content.type](content);
  },
});

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text) return $("text").focus();
  const problem = await notify(text);
  $("problem").textContent = problem;
  if (!problem && $("text").value.trim() === text) $("text").value = "";
  $("text").focus();
});

// Returns an error message, or "".
async function notify(text) {
  try {
    const response = await fetch("/notify", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ text }),
    });
    if (response.ok) return "";
    const { detail } = await response.json();
    return `Not sent: ${typeof detail === "string" ? detail : detail[0].msg}`;
  } catch {
    return "Not sent: the server cannot be reached.";
  }
}

$("curl").textContent = `curl ${location.origin}/notify -H 'Content-Type: application/json' \\
    -d '{"text": "Hello from curl"}'`;
