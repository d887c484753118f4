import { $, ready, retryLater, showState } from "./connection.js";

function show(counts) {
  const pages = Object.entries(counts).sort(([, one], [, other]) => other - one);
  const rows = pages.map(([page, count]) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = page;
    row.append(name);
    row.insertCell().textContent = count;
    return row;
  });
  $("counts").replaceChildren(...rows);
  const total = pages.reduce((sum, [, count]) => sum + count, 0);
  $("total").textContent = `${total} ${total === 1 ? "visit" : "visits"} in all.`;
}

function open() {
  showState("connecting", "Connecting…");
  const events = new EventSource("/events");
  events.onopen = () => {
    ready();
    showState("connected", "Connected");
  };
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.addEventListener("nobody", () => {
    $("total").textContent = "No worker has answered. Start it with the command above.";
  });
  events.onerror = () => {
    // A browser reconnects by itself only after some failures.
    events.close();
    retryLater(open);
  };
}

open();
