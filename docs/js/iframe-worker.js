// Pages that are opened as files: browsers start no workers there, so the search of this site runs
// in a hidden frame, which the theme takes for a worker.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const script = new URL(url, location.href).href
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = "<!doctype html><title>search</title>"
      frame.addEventListener("load", () => this.start(frame.contentWindow, script), { once: true })
      document.body.append(frame)
    }

    start(inner, url) {
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = inner.document.createElement("script")
      script.src = url
      script.onload = () => {
        this.inner = inner
        this.waiting.splice(0).forEach(data => this.postMessage(data))
      }
      inner.document.body.append(script)
    }

    postMessage(data) {
      if (this.inner) this.inner.dispatchEvent(new this.inner.MessageEvent("message", { data }))
      else this.waiting.push(data)
    }
  }
}
