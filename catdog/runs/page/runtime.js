{{loader}}

const LiteRT = (() => {
  {{core}}

  /** Compile a network for the processor, without WebGPU. Both arguments are Uint8Array. */
  async function start(wasmBinary, network) {
    const quiet = () => {}; // it says what it registers
    const runtime = new LiteRt(await ModuleFactory({ wasmBinary, print: quiet, printErr: quiet }));
    setGlobalLiteRt(runtime);
    runtime.setDefaultEnvironment(new Environment({ webGpuDevice: null }));
    return runtime.loadAndCompile(network, { accelerator: "wasm" });
  }

  return { start, Tensor };
})();
