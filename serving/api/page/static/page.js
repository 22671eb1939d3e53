// Submits the form when a field changes, and puts the new list in place of the old one. Without it, the button does.
const form = document.querySelector("form");
let latest = 0;

for (const slider of form.querySelectorAll("input[type=range]")) {
  const output = form.querySelector(`output[for=${slider.id}]`);
  slider.addEventListener("input", () => {
    output.value = slider.step === "1" ? slider.value : Number(slider.value).toFixed(2);
  });
}

form.addEventListener("change", () => form.requestSubmit());

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const number = ++latest;
  const filled = [...new FormData(form)].filter(([, value]) => value.trim());
  const address = "?" + new URLSearchParams(filled);
  const results = document.querySelector("#results");
  results.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address);
    const html = (answer.headers.get("content-type") ?? "").startsWith("text/html");
    const text = await answer.text();
    if (number !== latest) return;
    if (!html) throw new Error(`the server answers ${answer.status}`);
    const page = new DOMParser().parseFromString(text, "text/html");
    results.replaceChildren(...page.querySelector("#results").childNodes);
    document.title = document.querySelector("#status").textContent = page.title;
    history.replaceState(null, "", address);
  } catch (error) {
    if (number === latest) results.textContent = `There is no list: ${error.message}. Try again.`;
  } finally {
    if (number === latest) results.removeAttribute("aria-busy");
  }
});
