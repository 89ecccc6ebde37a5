// Serves the page from the cache after the first visit, also offline, and isolates it so that the network may use several threads.
const VERSION = {{ version }}, FILES = {{ files }}, POLICY = {{ policy }}
const HEADERS = {'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp', 'Content-Security-Policy': POLICY}

addEventListener('install', () => skipWaiting())
addEventListener('activate', event => event.waitUntil(clients.claim()))

async function clear() { for (const name of await caches.keys()) if (name.startsWith(PREFIX) && name !== PREFIX + VERSION) await caches.delete(name) }
const PREFIX = `pet-classifier ${registration.scope} `

async function answer(request, name) {
  const cache = await caches.open(PREFIX + VERSION)
  let found = await cache.match(name)
  if (!found) {
    found = await fetch(request, {cache: 'no-cache'})
    if (!found.ok) return found
    await cache.put(name, found.clone())
    if (name === 'index.html') await clear()
  }
  const headers = new Headers(found.headers)
  for (const [k, v] of Object.entries(HEADERS)) headers.set(k, v)
  return new Response(found.body, {status: found.status, statusText: found.statusText, headers})
}

addEventListener('fetch', event => {
  const url = event.request.url.split(/[?#]/)[0]
  const name = url.startsWith(registration.scope) && (url.slice(registration.scope.length) || 'index.html')
  if (FILES.includes(name)) event.respondWith(answer(event.request, name))
})
