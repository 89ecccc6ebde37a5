// Decodes photos as the Python package does, and runs the network on them.
import * as ort from './ort.js'

const MAX_SIDE = 4096 // pixels of a canvas side, which every browser allows

async function get(name) {
  const got = await fetch(name)
  if (!got.ok) throw new Error(`${name} could not be loaded: ${got.status} ${got.statusText}`)
  return got.arrayBuffer()
}

async function unzip(data) { // some servers have unpacked it already
  if (new Uint8Array(data)[0] !== 0x1f) return data
  return new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer()
}

async function load() {
  const [config, runtime, model] = await Promise.all(['config.json', 'runtime.bin', 'model.onnx'].map(get))
  ort.env.wasm.wasmBinary = await unzip(runtime)
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1
  const session = await ort.InferenceSession.create(new Uint8Array(model), {executionProviders: ['wasm']})
  return {session, ...JSON.parse(new TextDecoder().decode(config))}
}

const loaded = load()
loaded.then(({session, ...config}) => postMessage({config}), e => postMessage({failed: String(e.message || e)}))

function taps(from, to) { // torch's antialiased bilinear interpolation: a triangle of the width of the scale
  const scale = from/to, support = Math.max(scale, 1)
  return Array.from({length: to}, (_, i) => {
    const center = scale*(i + .5)
    const first = Math.max(0, Math.trunc(center - support + .5)), end = Math.min(from, Math.trunc(center + support + .5))
    const weights = Float32Array.from({length: end - first}, (_, j) => Math.max(0, 1 - Math.abs((first + j - center + .5)/support)))
    const sum = weights.reduce((a, b) => a + b)
    return {first, weights: weights.map(w => w/sum)}
  })
}

function pass(pixels, width, height, to) { // scale the rows of RGBA pixels, and transpose
  const out = new Uint8ClampedArray(4*to*height)
  for (const [i, {first, weights}] of taps(width, to).entries())
    for (let y = 0; y < height; y++) {
      let r = 0, g = 0, b = 0
      for (let j = 0, at = 4*(y*width + first); j < weights.length; j++, at += 4) {
        const w = weights[j]
        r += w*pixels[at]; g += w*pixels[at + 1]; b += w*pixels[at + 2]
      }
      const at = 4*(i*height + y)
      out[at] = r; out[at + 1] = g; out[at + 2] = b; out[at + 3] = 255
    }
  return out
}

function centerCrop(bitmap, size) {
  const short = Math.min(bitmap.width, bitmap.height), side = Math.min(short, MAX_SIDE)
  const left = Math.floor((bitmap.width - short)/2), top = Math.floor((bitmap.height - short)/2)
  const canvas = new OffscreenCanvas(side, side), context = canvas.getContext('2d', {willReadFrequently: true})
  context.imageSmoothingQuality = 'high'
  context.fillStyle = 'white' // transparent pixels are white
  context.fillRect(0, 0, side, side)
  context.drawImage(bitmap, left, top, short, short, 0, 0, side, side)
  const {data} = context.getImageData(0, 0, side, side)
  return side === size ? data : pass(pass(data, side, side, size), side, size, size)
}

function planes(pixels) { // RGBA to red, green and blue planes
  const n = pixels.length/4, out = new Uint8Array(3*n)
  for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) out[c*n + i] = pixels[4*i + c]
  return out
}

async function classify(source) { // a file, or an ImageBitmap
  const {session, size} = await loaded
  const began = performance.now()
  const bitmap = source instanceof Blob
    ? await createImageBitmap(source, {colorSpaceConversion: 'none', imageOrientation: 'from-image'}) : source
  const pixels = centerCrop(bitmap, size)
  bitmap.close()
  const decoded = performance.now()
  const out = await session.run({images: new ort.Tensor('uint8', planes(pixels), [1, 3, size, size])})
  const heat = out.heat && {values: out.heat.data, rows: out.heat.dims[1], columns: out.heat.dims[2]}
  return {probabilities: out.probabilities.data, logits: out.logits.data, heat, pixels, size,
          ms: {decode: decoded - began, network: performance.now() - decoded}}
}

let last = Promise.resolve() // one photo after the other
addEventListener('message', ({data: {id, source}}) => {
  last = last.then(async () => {
    try { postMessage({id, answer: await classify(source)}) }
    catch (e) { postMessage({id, error: e instanceof DOMException ? 'This browser cannot read the file as an image.' : String(e.message || e)}) }
  })
})
