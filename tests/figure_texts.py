"""Scripts for a page with figures: which of their texts can't be read."""

CUT_OFF = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
  const box = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('svg text')].filter(text => {
    const own = text.getBoundingClientRect();
    return own.width && (own.left < box.left - 1 || own.right > box.right + 1
      || own.top < box.top - 1 || own.bottom > box.bottom + 1);
  }).map(text => text.textContent);
})"""
ON_EACH_OTHER = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
  const named = [...plot.querySelectorAll(
      '.gtitle, .xtitle, .ytitle, .y2title, .legendtext, .xtick text, .ytick text')]
    .map(text => [text.textContent, text.getBoundingClientRect()]).filter(([, box]) => box.width);
  if (!named.length) return ['no text found'];
  return named.flatMap(([a, one], i) => named.slice(i + 1).filter(([, other]) =>
    one.left < other.right - 1 && other.left < one.right - 1 && one.top < other.bottom - 2
    && other.top < one.bottom - 2).map(([b]) => a + ' / ' + b));
})"""
