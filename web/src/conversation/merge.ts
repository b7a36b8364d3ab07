// One conversation changed in two tabs at once. Each tab knows what it last saw in the browser's store: what it has
// changed since is its own, everything else is taken from the store. Works on any value that JSON could hold.

/**
 * Both changes to a value in one.
 *
 * @param base what both began with.
 * @returns new objects and lists where something differs; when both changed the same text or number, `mine`.
 */
export function merged<T>(base: T | undefined, mine: T, theirs: T): T {
  return merge(base, mine, theirs) as T;
}

function merge(base: unknown, mine: unknown, theirs: unknown): unknown {
  if (same(mine, base)) return theirs;
  if (same(theirs, base) || same(theirs, mine)) return mine;
  // Lists are the branches below a message, and branches only ever come in.
  if (Array.isArray(mine) && Array.isArray(theirs)) {
    return [...theirs, ...mine.filter((value) => !theirs.some((other) => same(value, other)))];
  }
  if (!isObject(mine) || !isObject(theirs)) return mine;
  const before = isObject(base) ? base : {};
  const names = [...new Set([...Object.keys(theirs), ...Object.keys(mine)])];
  const values = names.map((name) => [name, merge(before[name], mine[name], theirs[name])] as const);
  return Object.fromEntries(values.filter(([, value]) => value !== undefined));
}

/** Make `live` equal to `wanted`, leaving every object in its place: others hold on to messages while they grow. */
export function become(live: object, wanted: object): void {
  const [into, from] = [live as Record<string, unknown>, wanted as Record<string, unknown>];
  for (const name of Object.keys(into)) if (from[name] === undefined) delete into[name];
  for (const [name, value] of Object.entries(from)) {
    const held = into[name];
    if (isObject(held) && isObject(value)) become(held, value);
    else if (!same(held, value)) into[name] = value;
  }
}

export function same(one: unknown, other: unknown): boolean {
  if (Object.is(one, other)) return true;
  if (Array.isArray(one) && Array.isArray(other)) {
    return one.length === other.length && one.every((value, index) => same(value, other[index]));
  }
  if (!isObject(one) || !isObject(other)) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => name in other && same(one[name], other[name]));
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
