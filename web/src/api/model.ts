// A model as `GET /v1/models` tells of it, reduced to what the page shows.

export interface Model {
  id: string;
  /** Most tokens of prompt and answer together; null when the server does not say. */
  context: number | null;
  /** False for a base model, which only continues texts. */
  chats: boolean;
  /** Parameters; null when the server does not say. */
  parameters: number | null;
  /** Address of the page that takes an answer apart, where the server has one. */
  explorer: string | null;
}

/** The models of a list; what is no model in it is left out. */
export function readModels(body: unknown): Model[] {
  const data = isObject(body) ? body["data"] : null;
  if (!Array.isArray(data)) return [];
  return data.flatMap((entry: unknown) => {
    if (!isObject(entry) || typeof entry["id"] !== "string") return [];
    const meta = isObject(entry["meta"]) ? entry["meta"] : {};
    return [
      {
        id: entry["id"],
        context: positive(entry["max_model_len"]) ?? positive(entry["max_input_tokens"]),
        chats: canChat(entry["capabilities"]),
        parameters: positive(meta["n_params"]),
        explorer: explorerOf(entry["capabilities"]),
      },
    ];
  });
}

// Only a plain no, or a list without it, says that a model cannot chat: silence is no refusal.
function canChat(capabilities: unknown): boolean {
  if (Array.isArray(capabilities)) return capabilities.includes("chat");
  const said = isObject(capabilities) ? capabilities["chat"] : undefined;
  return (isObject(said) ? said["supported"] : said) !== false;
}

// A path of this server only: an address elsewhere is never followed.
function explorerOf(capabilities: unknown): string | null {
  const told = isObject(capabilities) ? capabilities["explorer"] : null;
  const said = isObject(told) && told["supported"] === true ? told["url"] : told;
  return typeof said === "string" && /^\/(?![/\\])/.test(said) ? said : null;
}

function positive(value: unknown): number | null {
  return typeof value === "number" && value > 0 ? value : null;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
