// Looks whether the service answers, and opens the page then.
//
// What is asked for is the head of the root, not this address: a login's answer, say, can be used only once. An answer
// with Moat-Error is the proxy's own; any other is the service's, whatever it says.
const FIRST_MS = 500;
const MOST_MS = 4000;
const status = document.getElementById("wait");
let wait_ms = FIRST_MS;
let timer = 0;
let asks = false;

async function look() {
  if (asks) return;
  asks = true;
  try {
    const answer = await fetch("/", {
      method: "HEAD",
      cache: "no-store",
      credentials: "omit",
      redirect: "manual",
      signal: AbortSignal.timeout(10000),
    });
    if (!["not-listening", "starting"].includes(answer.headers.get("Moat-Error"))) {
      location.reload();
      return;
    }
  } catch (error) {
    // A service that takes the request and is slow to answer is there; the proxy that is away for a moment is not.
    if (error.name === "TimeoutError") {
      location.reload();
      return;
    }
  } finally {
    asks = false;
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  if (document.hidden) return;
  timer = setTimeout(look, wait_ms);
  wait_ms = Math.min(wait_ms * 1.3, MOST_MS);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
  } else {
    wait_ms = FIRST_MS;
    look();
  }
});
status.classList.add("live");
plan();
