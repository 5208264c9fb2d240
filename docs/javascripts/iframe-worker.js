// The search runs in a worker, which browsers refuse to a page that is opened from a folder: there, a frame is the worker.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true });
      document.body.append(this.frame);
      const inside = this.frame.contentWindow;
      this.loaded = new Promise((resolve) => {
        const page = inside.document;
        page.open();
        page.write("<!doctype html><title>search</title><body></body>");
        page.close();
        inside.postMessage = (data) => setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })));
        inside.importScripts = async (...scripts) => {
          for (const script of scripts) {
            await load(page, script);
          }
        };
        load(page, url).then(resolve);
      });
    }

    postMessage(data) {
      const inside = this.frame.contentWindow;
      this.loaded.then(() => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}

function load(page, url) {
  return new Promise((resolve, reject) => {
    const script = Object.assign(page.createElement("script"), { src: url, onload: resolve, onerror: reject });
    page.body.append(script);
  });
}
