// A page that is served while its run goes on: it asks for itself again, and shows what has changed.
const SECONDS = 3;
let shown = content;
let version = "";

function fillIn(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const next = JSON.parse(page.getElementById("content").textContent);
  if (!next.progress) {
    location.reload(); // the run is done, and this is its report
    return;
  }
  for (const old of document.querySelectorAll(`script[type="application/octet-stream"]`)) old.remove();
  // Data, which no browser runs: the policy of the page lets none but its own scripts.
  document.body.append(...page.querySelectorAll(`script[type="application/octet-stream"]`));
  document.title = page.title;
  document.querySelector("h1").textContent = next.summary.title;
  show(next, shown);
  shown = next;
}

async function ask() {
  const said = section("looked");
  const asked = { cache: "no-cache", credentials: "same-origin" };
  const answer = await fetch(location.pathname, asked).catch(() => null);
  const text = answer?.ok ? await answer.text().catch(() => null) : null;
  if (text === null) {
    said.textContent = "bench watch gives no answer any more: this is what it said last.";
    return;
  }
  const tag = answer.headers.get("ETag");
  if (tag !== version) fillIn(text);
  version = tag;
  said.textContent = `As of ${new Date().toLocaleTimeString()}. This page is kept up to date by bench watch.`;
}

async function keepAsking() {
  if (!document.hidden) await ask();
  setTimeout(keepAsking, 1000 * SECONDS);
}
keepAsking();
