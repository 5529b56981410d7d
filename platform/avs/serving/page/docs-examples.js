/** Command lines of the API documentation. What is not known here gets a plain request. */

const SEGMENT = [
  ["Masks as JSON", '-F file=@clip.mp4 "URL"'],
  ["Masks as they are made, one line a window", '-N -F file=@clip.mp4 "URL?format=stream&masks_per_s=5"'],
  ["The video with the masks drawn in", '-F file=@clip.mp4 -o overlay.mp4 "URL?format=overlay"'],
  ["One PNG a mask, in a zip file", '-F file=@clip.mp4 -o masks.zip "URL?format=png"'],
  ["Masks as a NumPy file", '-F file=@clip.mp4 -o masks.npz "URL?format=npz"'],
  ["A matte for video editors, a mask for every frame", '-F file=@clip.mp4 -o matte.mov "URL?format=matte&masks_per_s=native"'],
  ["Silent objects too", '-F file=@clip.mp4 "URL?objects=true"'],
  ["A video that lies elsewhere", `-H "Content-Type: application/json" -d '{"url": "https://example.org/clip.mp4"}' "URL"`],
  ["With a token", '-H "Authorization: Bearer TOKEN" -F file=@clip.mp4 "URL"'],
];

/**
 * Examples for an operation.
 * @param {string} method
 * @param {string} path
 * @param {string} origin the address of the service, without a slash at its end
 * @returns {{what: string, command: string}[]}
 */
export function examplesFor(method, path, origin) {
  const url = origin + path;
  if (method === "post" && path === "/v1/segment") {
    return SEGMENT.map(([what, rest]) => ({ what, command: `curl ${rest.replace("URL", url)}` }));
  }
  const verb = method === "get" ? "" : `-X ${method.toUpperCase()} `;
  return [{ what: "From a shell", command: `curl ${verb}"${url}"` }];
}
