// A scale maps values to pixels and knows its ticks.
function linearScale(low, high, from, to, whole = false) {
  const span = high > low ? high - low : 1;
  const scale = (value) => from + ((value - low) / span) * (to - from);
  const wanted = Math.max(2, Math.abs(to - from) / 64);
  const power = Math.max(whole ? 1 : 0, 10 ** Math.floor(Math.log10(span / wanted)));
  const step = (whole ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((factor) => factor * power).find((size) => span / size <= wanted);
  scale.ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k += 1) scale.ticks.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const exact = Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) < 1e-9;
  scale.text = (value) => value.toFixed(exact ? digits : digits + 1);
  return scale;
}

function logScale(low, high, from, to) {
  const scale = (value) => from + (Math.log(value / low) / Math.log(high / low)) * (to - from);
  scale.ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 2, 5]) scale.ticks.push(factor * 10 ** power);
  }
  scale.ticks = scale.ticks.filter((value) => value >= low && value <= high);
  scale.text = (value) => String(Number(value.toPrecision(3)));
  return scale;
}

// The smallest round number that is at least `value`.
function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((factor) => factor * power).find((limit) => limit >= value);
}
