// Conversations: trees of messages, kept in this browser alone. Each message knows its parent; editing and regenerating add a sibling, and `chosen` says which
// child is shown, so that nothing is lost.

import { freshId, say } from "./dom.js";

// What the parts of the page share.
export const page = { conversations: [], current: null, models: [], ranker: null };

const store = {
  open() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open("longreach", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  },
  async run(mode, work) {
    const database = await (this.database ??= this.open());
    return new Promise((resolve, reject) => {
      const transaction = database.transaction("conversations", mode);
      const request = work(transaction.objectStore("conversations"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
    });
  },
};

export const stored = () => store.run("readonly", (s) => s.getAll());
export const forget = (id) => store.run("readwrite", (s) => s.delete(id));

export async function keep(conversation) {
  if (!conversation.roots.length && !conversation.system) return;
  try {
    // A copy: it may change while it is written.
    const copy = structuredClone(conversation);
    await store.run("readwrite", (s) => s.put(copy));
  } catch (error) {
    say(`The browser could not keep the conversation: ${error}`, { bad: true });
  }
}

export function save(conversation = page.current) {
  conversation.changed = Date.now();
  return keep(conversation);
}

export const fresh = (more = {}) => ({ id: freshId(), changed: Date.now(), system: "", nodes: {}, roots: [], chosen: {}, ...more });

export const childrenOf = (c, id) => (id ? c.nodes[id].children : c.roots);

// The messages that are shown, from the first to the last.
export function path(c) {
  const shown = [];
  let at = null;
  for (;;) {
    const children = childrenOf(c, at);
    if (!children.length) return shown;
    at = children.includes(c.chosen[at ?? ""]) ? c.chosen[at ?? ""] : children[children.length - 1];
    shown.push(c.nodes[at]);
  }
}

export function add(c, parent, role, content) {
  const node = { id: freshId(), parent, role, content, thinking: "", children: [] };
  c.nodes[node.id] = node;
  childrenOf(c, parent).push(node.id);
  c.chosen[parent ?? ""] = node.id;
  return node;
}

export const titleOf = (c) => path(c)[0]?.content.trim().slice(0, 60) || (c.state ? `About ${c.state.name}` : "New conversation");

// A conversation from a file, with what the page relies on; an error if it is none.
export function imported(one) {
  const wrong = () => new Error("it is no list of conversations");
  if (typeof one?.id !== "string" || typeof one.nodes !== "object" || !Array.isArray(one.roots)) throw wrong();
  const nodes = {};
  for (const [id, node] of Object.entries(one.nodes)) {
    if (typeof node?.content !== "string" || !Array.isArray(node.children)) throw wrong();
    nodes[id] = { ...node, id, parent: node.parent ?? null, thinking: String(node.thinking ?? ""), role: String(node.role) };
  }
  const seen = new Set();
  // Each message has one parent: no path comes back to itself.
  const walk = [...one.roots];
  while (walk.length) {
    const id = walk.pop();
    if (seen.has(id) || !Object.hasOwn(nodes, id)) throw wrong();
    seen.add(id);
    walk.push(...nodes[id].children);
  }
  return { ...fresh(), ...one, system: String(one.system ?? ""), chosen: { ...one.chosen }, nodes };
}
