
const feed = document.getElementById("feed");
const live = document.getElementById("live");
const figures = document.getElementById("figures");
const KEPT = 100;
const source = new EventSource("/console/feed");
const show = (state, text) => { live.dataset.state = state; live.textContent = text; };
show("still", "connecting");
source.onerror = () => show("lost", "reconnecting");
source.addEventListener("feed", (message) => { feed.innerHTML = message.data; show("live", "live"); });
source.addEventListener("figures", (message) => { figures.innerHTML = message.data; });
source.addEventListener("events", (message) => {
  const part = document.createElement("template");
  part.innerHTML = message.data;
  for (const row of part.content.children) row.classList.add("fresh");
  feed.prepend(part.content);
  while (feed.children.length > KEPT) feed.lastElementChild.remove();
});
