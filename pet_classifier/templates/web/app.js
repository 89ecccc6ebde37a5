'use strict'
const $ = id => document.getElementById(id), answer = $('answer'), photo = $('photo'), video = $('video'), drop = $('drop')
const COLORS = [[127, 30, 108], [171, 47, 94], [211, 71, 67], [239, 108, 35], [251, 157, 7], [247, 211, 64], [252, 255, 164]] // matplotlib's inferno
let config, asked = 0, stream = null, begin
const waiting = new Map(), started = new Promise(done => { begin = done })

function make(tag, text, attributes = {}) {
  const e = Object.assign(document.createElement(tag), attributes)
  e.textContent = text
  return e
}

function show(kind, title, text, rest = []) {
  const says = make('section', '', {className: `says ${kind}`})
  says.append(make('h2', title), make('p', text), ...rest)
  answer.replaceChildren(says)
}

function start() {
  const worker = new Worker('worker.js', {type: 'module'})
  worker.addEventListener('error', () => show('problem', 'No answer', 'The network could not be started in this browser.'))
  worker.addEventListener('message', ({data}) => {
    if (data.failed) return show('problem', 'No answer', data.failed)
    if (data.config) {
      config = data.config
      document.body.dataset.ready = self.crossOriginIsolated ? 'threads' : 'one thread'
      if ($('status')) $('status').textContent = 'The answer appears here, with a heat map of what it is based on.'
      return
    }
    const {done, refuse} = waiting.get(data.id)
    waiting.delete(data.id)
    if (data.error) refuse(new Error(data.error))
    else done(data.answer)
  })
  begin(worker)
}

async function classify(source) { // a file or an ImageBitmap; resolves to probabilities, logits, heat map and times
  const id = ++asked, worker = await started
  return new Promise((done, refuse) => {
    waiting.set(id, {done, refuse})
    worker.postMessage({id, source}, source instanceof ImageBitmap ? [source] : [])
  })
}

function percent(p) { return p > 0 && p < .005 ? '<1%' : p < 1 && p >= .995 ? '>99%' : `${Math.round(100*p)}%` }

function bars(probabilities) {
  const all = make('div', '', {className: 'bars', id: 'bars'})
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a])
  for (const i of order.slice(0, 5))
    all.append(make('span', config.classes[i]), make('progress', '', {value: probabilities[i], max: 1}), make('span', percent(probabilities[i])))
  return all
}

function figure(name, pixels, size) {
  const canvas = make('canvas', '', {width: size, height: size})
  canvas.setAttribute('role', 'img')
  canvas.setAttribute('aria-label', name)
  canvas.getContext('2d').putImageData(new ImageData(pixels, size, size), 0, 0)
  const all = make('figure', '')
  all.append(canvas, make('figcaption', name))
  return all
}

function smooth({values, rows, columns}, size) { // the heat map scaled to the size of the photo, by the browser
  const small = new OffscreenCanvas(columns, rows), large = new OffscreenCanvas(size, size)
  const grey = new ImageData(columns, rows)
  for (const [i, v] of values.entries()) grey.data.set([255*v, 255*v, 255*v, 255], 4*i)
  small.getContext('2d').putImageData(grey, 0, 0)
  const context = large.getContext('2d')
  context.imageSmoothingQuality = 'high'
  context.drawImage(small, 0, 0, size, size)
  return context.getImageData(0, 0, size, size).data.filter((_, i) => i % 4 === 0)
}

function overlay(pixels, heat, size) {
  const values = smooth(heat, size), out = new Uint8ClampedArray(pixels)
  for (const [i, v] of values.entries()) {
    const at = v/255*(COLORS.length - 1), k = Math.min(Math.floor(at), COLORS.length - 2), alpha = .75*v/255
    for (let c = 0; c < 3; c++) {
      const color = COLORS[k][c] + (at - k)*(COLORS[k + 1][c] - COLORS[k][c])
      out[4*i + c] = pixels[4*i + c]*(1 - alpha) + color*alpha
    }
  }
  return out
}

function present({probabilities, logits, heat, pixels, size}) {
  const best = probabilities.indexOf(Math.max(...probabilities)), name = config.classes[best]
  const p = probabilities[best] < .995 ? `${Math.round(100*probabilities[best])}%` : 'over 99%'
  const none = config.none_below !== null && Math.max(...logits) < config.none_below
  const looked = make('div', '', {className: 'looked'})
  looked.append(figure('network input', pixels, size))
  if (heat) looked.append(figure('heat map', overlay(pixels, heat, size), size))
  if (none) show('none', 'None of these', `This image is unlike those the network was trained on. The best guess is ${name}, with ${p}.`, [bars(probabilities), looked])
  else show('known', name, `with a probability of ${p}`, [bars(probabilities), looked])
}

async function take(file) {
  if (!file) return
  stop()
  if (photo.src.startsWith('blob:')) URL.revokeObjectURL(photo.src)
  photo.src = URL.createObjectURL(file)
  photo.hidden = false
  $('invite').hidden = true
  answer.replaceChildren(make('p', config ? 'Classifying …' : 'Loading the network …', {className: 'soft'}))
  const number = asked + 1
  try {
    const result = await classify(file)
    if (number === asked) present(result)
  } catch (e) { if (number === asked) show('problem', 'No answer', e.message) }
  answer.scrollIntoView({block: 'nearest', behavior: 'smooth'})
}

function stop() {
  if (stream) for (const track of stream.getTracks()) track.stop()
  stream = null
  video.hidden = true
  $('live').textContent = 'Use the camera live'
}

async function live() {
  if (stream) return stop()
  try { stream = await navigator.mediaDevices.getUserMedia({video: {facingMode: 'environment'}}) }
  catch (e) { return show('problem', 'No camera', `The browser does not give access to a camera: ${e.message}`) }
  video.srcObject = stream
  await video.play()
  video.hidden = false
  photo.hidden = $('invite').hidden = true
  $('live').textContent = 'Stop the camera'
  while (stream) {
    const result = await classify(await createImageBitmap(video))
    if (stream) present(result)
    await new Promise(requestAnimationFrame)
  }
}

async function isolated() { // once the service worker serves the page, it may use several threads
  if (!navigator.serviceWorker) return true // an http address other than localhost: one thread, and not offline
  await navigator.serviceWorker.register('sw.js')
  await navigator.serviceWorker.ready
  if (self.crossOriginIsolated || sessionStorage.getItem('reloaded')) return true
  sessionStorage.setItem('reloaded', 'yes')
  location.reload()
  return false
}

photo.addEventListener('error', () => { photo.hidden = true; $('invite').hidden = false }) // a format that browsers cannot show
for (const input of document.querySelectorAll('.file'))
  input.addEventListener('change', () => { take(input.files[0]); input.value = '' })
for (const event of ['dragenter', 'dragover', 'dragleave', 'drop'])
  document.addEventListener(event, e => { e.preventDefault(); drop.classList.toggle('over', event === 'dragenter' || event === 'dragover') })
document.addEventListener('drop', e => take(e.dataTransfer.files[0]))
$('camera').hidden = !navigator.maxTouchPoints // desktop file dialogs have no camera
$('live').hidden = !(navigator.mediaDevices && navigator.mediaDevices.getUserMedia)
$('live').addEventListener('click', live)

if (location.protocol === 'file:')
  show('problem', 'Not served', 'Browsers run this page only from a web server, such as: python -m http.server, in the folder of this file.')
else isolated().catch(() => true).then(ready => { if (ready) start() })
