// What the reader has chosen, in one place. Parts of the page read it and are told after each change.

/** A store: `get()`, `set(changes)` and `on(listener)`; a listener gets the state and the names that changed. */
export function makeState(initial) {
  let state = { ...initial };
  const listeners = [];
  return {
    get: () => state,
    set(changes) {
      const names = Object.keys(changes).filter((name) => changes[name] !== state[name]);
      if (!names.length) return;
      state = { ...state, ...changes };
      for (const listener of listeners) listener(state, new Set(names));
    },
    on(listener) {
      listeners.push(listener);
    },
  };
}
