// Keeps the files of the page in the browser, so that conversations can be read while the server is stopped. What the server sends comes first; answers and
// everything else that is asked of it are never kept.

const NAME = "longreach";
const FILES = ["/", "/page.css", "/icon.svg", "/page.js", "/dom.js", "/conversations.js", "/requests.js", "/markdown.js", "/chat.js", "/documents.js",
  "/search.js", "/status.js", "/views.js"];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(NAME).then((cache) => cache.addAll(FILES)));
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

async function answer(request) {
  const cache = await caches.open(NAME);
  const path = new URL(request.url).pathname;
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(path, response.clone());
    return response;
  } catch (error) {
    const kept = await cache.match(path);
    if (kept) return kept;
    throw error;
  }
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "GET" && url.origin === location.origin && FILES.includes(url.pathname)) event.respondWith(answer(event.request));
});
