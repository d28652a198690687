// How the viewer is built: one page, one bundle, served under /viewer/ by central/viewer/delivery.py.
//
// There is no dev server on purpose: the session is an HttpOnly, SameSite=Strict cookie of central's own
// origin, so the page has to come from there too. Rebuild with `npm run build` and reload.
import { defineConfig } from 'vite';

export default defineConfig({
  base: '/viewer/',
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    // WebAssembly and workers must stay files: the content security policy allows no data: scripts.
    assetsInlineLimit: 0,
    // Cornerstone and VTK are one large library that is needed before the first picture: splitting it
    // would only add round trips.
    chunkSizeWarningLimit: 8192,
  },
  worker: { format: 'es' },
  resolve: {
    alias: {
      // VTK's XML reader imports it for file formats that never reach a DICOM viewer, and it breaks the
      // production bundle at start (it wants Node's `events`).
      xmlbuilder2: '/src/absent_xmlbuilder.ts',
    },
  },
});
