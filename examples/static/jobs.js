import { $, connect, ready } from "./connection.js";

const PATIENCE = 8000; // Milliseconds without progress before a job is shown as silent.

const jobs = new Map(); // By the id of the job: its element, and a timer.

function add({ job, title, where }) {
  const element = $("job").content.firstElementChild.cloneNode(true);
  element.querySelector("strong").textContent = title;
  element.querySelector("progress").setAttribute("aria-label", `Progress of ${title}`);
  $("jobs").prepend(element);
  const entry = { element, title, where };
  jobs.set(job, entry);
  say(entry, "Waits to begin");
  wait(entry);
}

function progress({ job, percent }) {
  const entry = jobs.get(job);
  if (entry === undefined) return; // The job was started before the connection was lost.
  entry.element.querySelector("progress").value = percent;
  entry.element.querySelector(".percent").textContent = `${percent} %`;
  entry.element.classList.toggle("done", percent === 100);
  if (percent < 100) {
    say(entry, entry.where === "worker" ? "Runs in a worker" : "Runs in the server");
    wait(entry);
  } else {
    say(entry, "Done");
    forget(job);
    $("news").textContent = `${entry.title} is done.`;
  }
}

function say(entry, text) {
  entry.element.querySelector("small").textContent = text;
}

function wait(entry) {
  clearTimeout(entry.timer);
  const hint = entry.where === "worker" ? "Does the worker run, and Redis?" : "It goes on in a moment.";
  entry.timer = setTimeout(() => say(entry, `Nothing was heard for a while. ${hint}`), PATIENCE);
}

function forget(job) {
  clearTimeout(jobs.get(job).timer);
  jobs.delete(job);
}

function showProblem(text) {
  $("problem").textContent = text;
  $("title").setAttribute("aria-invalid", String(Boolean(text)));
}

const handlers = { queued: add, progress, error: ({ detail }) => showProblem(detail) };

const socket = connect("/ws/jobs", {
  opened: ready,
  received(frame) {
    const content = JSON.parse(frame);
    handlers[content.type](content);
  },
  lost() {
    // A new connection has a new channel, which the jobs do not know.
    for (const [job, entry] of jobs) {
      say(entry, "Lost from sight: the connection ended.");
      forget(job);
    }
  },
});

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const title = $("title").value.trim();
  if (!title) showProblem("Enter a name of 1 to 60 characters.");
  else if (!socket.open) showProblem("There is no connection to the server. Try again in a moment.");
  else {
    showProblem("");
    socket.send(JSON.stringify({ type: "start", title }));
  }
  if (!title) $("title").focus();
});
