import { $, connect, ready } from "./connection.js";

function show(text) {
  const item = document.createElement("li");
  item.textContent = text;
  item.dir = "auto";
  $("messages").append(item);
  item.scrollIntoView({ block: "nearest" });
}

const socket = connect("/ws/system", {
  opened: ready,
  received: show,
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text && socket.open) {
    socket.send(text);
    $("text").value = "";
  }
  $("text").focus();
});
