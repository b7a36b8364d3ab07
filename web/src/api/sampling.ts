// How the next token is drawn. Null leaves a value to the server.

export interface Sampling {
  temperature: number | null;
  topP: number | null;
  topK: number | null;
  minP: number | null;
  maxTokens: number | null;
  seed: number | null;
  repetitionPenalty: number | null;
}

export const DEFAULT_SAMPLING: Readonly<Sampling> = {
  temperature: 0.7,
  topP: 0.95,
  topK: null,
  minP: null,
  maxTokens: 512,
  seed: null,
  repetitionPenalty: 1.1,
};

export interface SamplingField {
  name: keyof Sampling;
  wire: string;
  min: number;
  max: number;
  step: number;
}

/** In the order of the panel. Out of these ranges the server would refuse. */
export const SAMPLING_FIELDS: readonly SamplingField[] = [
  { name: "temperature", wire: "temperature", min: 0, max: 2, step: 0.05 },
  { name: "topP", wire: "top_p", min: 0.05, max: 1, step: 0.05 },
  { name: "topK", wire: "top_k", min: 0, max: 200, step: 1 },
  { name: "minP", wire: "min_p", min: 0, max: 0.5, step: 0.01 },
  { name: "repetitionPenalty", wire: "repetition_penalty", min: 1, max: 2, step: 0.05 },
  { name: "maxTokens", wire: "max_tokens", min: 1, max: 32768, step: 1 },
  { name: "seed", wire: "seed", min: 0, max: 2147483647, step: 1 },
];

/** As the server reads it. */
export function wireSampling(sampling: Sampling): Record<string, number> {
  const wire: Record<string, number> = {};
  for (const { name, wire: field } of SAMPLING_FIELDS) {
    const value = sampling[name];
    if (value !== null) wire[field] = value;
  }
  return wire;
}

/** A value that was typed: null for nothing, else within the field's range. */
export function readValue(field: SamplingField, typed: string): number | null {
  const value = Number.parseFloat(typed.replace(",", "."));
  if (Number.isNaN(value)) return null;
  const whole = Number.isInteger(field.step) ? Math.round(value) : value;
  return Math.min(field.max, Math.max(field.min, whole));
}
