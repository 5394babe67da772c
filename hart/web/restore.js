// Reads what a picture was drawn with out of its PNG file: here in the browser, nothing is sent but
// the few texts that the page has fields for.
const WANTED = ["prompt", "seed", "cfg_scale", "cache_config"];
const MAX_BYTES = 64 * 2 ** 20;

function texts(buffer) {
  const view = new DataView(buffer), found = {};
  const latin = new TextDecoder("latin1"), utf8 = new TextDecoder();
  for (let at = 8; at + 12 <= buffer.byteLength; at += 12 + view.getUint32(at)) {
    const kind = latin.decode(new Uint8Array(buffer, at + 4, 4));
    if (kind !== "tEXt" && kind !== "iTXt") continue;
    const data = new Uint8Array(buffer, at + 8, view.getUint32(at));
    const end = data.indexOf(0), name = latin.decode(data.subarray(0, end));
    if (!WANTED.includes(name)) continue;
    if (kind === "tEXt") found[name] = latin.decode(data.subarray(end + 1));
    // After two bytes about compression come the language and a translated name.
    else if (!data[end + 1]) {
      const text = data.indexOf(0, data.indexOf(0, end + 3) + 1) + 1;
      found[name] = utf8.decode(data.subarray(text));
    }
  }
  return found;
}

async function restore(file) {
  let found = {};
  try {
    if (file.size <= MAX_BYTES) found = texts(await file.arrayBuffer());
  } catch { /* no PNG file, or a damaged one: nothing is found in it */ }
  props.value = JSON.stringify(found);
  trigger("input");
}

const input = element.querySelector("input"), area = element.querySelector("label");
input.addEventListener("change", () => {
  if (input.files.length) restore(input.files[0]);
  input.value = "";
});
for (const kind of ["dragover", "drop"])
  area.addEventListener(kind, (event) => {
    event.preventDefault();
    if (kind === "drop" && event.dataTransfer.files.length) restore(event.dataTransfer.files[0]);
  });
