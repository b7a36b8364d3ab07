// Small settings, each a text in localStorage; where that is forbidden they last as long as the page.

export function readSetting(name: string): string | null {
  try {
    return localStorage.getItem(`cadran.${name}`);
  } catch {
    return null;
  }
}

export function keepSetting(name: string, value: string): void {
  try {
    if (value === "") localStorage.removeItem(`cadran.${name}`);
    else localStorage.setItem(`cadran.${name}`, value);
  } catch {
    // It is a convenience; nothing depends on it.
  }
}

/** Where a reader was: each tab comes back to its own place, a new one begins where the last one was. */
export function readPlace(name: string): string | null {
  try {
    return sessionStorage.getItem(`cadran.${name}`) ?? readSetting(name);
  } catch {
    return readSetting(name);
  }
}

export function keepPlace(name: string, value: string): void {
  keepSetting(name, value);
  try {
    sessionStorage.setItem(`cadran.${name}`, value);
  } catch {
    // As above.
  }
}
