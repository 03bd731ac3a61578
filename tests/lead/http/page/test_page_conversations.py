"""Conversations that stay in the browser: a list, versions, edits, settings, results of tools, several models."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from bench.harness.scripted_lead import ScriptedLead
from tests.support.page import Page

pytestmark = pytest.mark.slow  # a browser


def say(scripted: ScriptedLead, *texts: str) -> None:
    """The next answers."""
    scripted.scripts += [[{"content": text}] for text in texts]


def asked(scripted: ScriptedLead) -> list[tuple[str, str]]:
    """Roles and contents of the last question."""
    return [(message["role"], message["content"]) for message in scripted.asked[-1]["messages"]]


def titles(page: Page) -> list[str]:
    return page.texts("#conversations a")


def reload(page: Page) -> None:
    page.chrome.refresh()
    page.ready()


def test_a_reload_loses_nothing(scene: Page, scripted: ScriptedLead) -> None:
    guessed = {"content": "one!", "accepted": [["one", "attic"], ["!", ""]]}
    scripted.scripts = [[{"reasoning_content": "hm"}, guessed]]
    say(scripted, "two!")
    scene.ask("one?")
    scene.answered()
    scene["new"].click()
    scene.ask("two?")
    scene.answered()
    scene.until(lambda: titles(scene) == ["two?", "one?"], "both conversations")
    reload(scene)
    scene.until(lambda: scene.answers() == ["two!"], "the conversation that was open")
    assert titles(scene) == ["two?", "one?"]
    assert scene.texts("#conversations [aria-current]") == ["two?"]
    scene.all("#conversations a")[1].click()
    scene.until(lambda: scene.answers() == ["one!"], "the other one")
    assert scene.texts(".thoughts > div") == ["hm"] and scene.texts("article .guessed") == ["one"]
    say(scripted, "more")
    scene.ask("and?")
    scene.answered(2)
    assert asked(scripted) == [("user", "one?"), ("assistant", "one!"), ("user", "and?")]
    # Back to where one was, by the browser's own button.
    scene.chrome.back()
    scene.until(lambda: scene.answers() == ["two!"], "the conversation before")


def test_delete(scene: Page, scripted: ScriptedLead) -> None:
    scene.ask("one?")
    scene.answered()
    scene.until(lambda: titles(scene) == ["one?"], "the list")
    scene.all("#conversations button")[0].click()
    scene.chrome.switch_to.alert.dismiss()
    assert titles(scene) == ["one?"]
    scene.all("#conversations button")[0].click()
    scene.chrome.switch_to.alert.accept()
    scene.until(lambda: not titles(scene) and not scene.answers(), "an empty list")
    reload(scene)
    assert not titles(scene) and not scene.answers()


def test_versions_of_an_answer_and_of_a_question(scene: Page, scripted: ScriptedLead) -> None:
    say(scripted, "A1", "A2", "B1", "C1")
    scene.ask("a")
    scene.answered()
    scene.press("article.assistant .actions", "retry")
    scene.until(lambda: scene.answers() == ["A2"] and scene.texts(".versions span") == ["2 of 2"], "a second version")
    assert asked(scripted) == [("user", "a")]
    scene.press(".versions", "earlier")
    assert scene.answers() == ["A1"] and scene.texts(".versions span") == ["1 of 2"]
    scene.ask("b")
    scene.answered(2)
    assert asked(scripted) == [("user", "a"), ("assistant", "A1"), ("user", "b")]
    # An edited question is another version, too. What followed the old one stays with that.
    scene.all("article.user .actions")[0].find_elements(By.TAG_NAME, "button")[1].click()
    field = scene.all("form.edit textarea")[0]
    assert field.get_attribute("value") == "a"
    field.send_keys("!")
    scene.press("form.edit", "ask this")
    scene.until(lambda: scene.answers() == ["C1"], "the answer to the edited question")
    assert asked(scripted) == [("user", "a!")]
    reload(scene)
    scene.until(lambda: scene.texts("article.user .words") == ["a!"], "the version that was shown")
    scene.press("article.user .versions", "earlier")
    assert scene.answers() == ["A1", "B1"]


def test_an_answer_that_a_reload_broke_off_is_kept(scene: Page, scripted: ScriptedLead) -> None:
    scripted.script = [{"content": "first "}] + [{"content": "more "}] * 2000
    scripted.pause = 0.05
    scene.ask("a")
    stored = """
        const { openDB } = await import("idb");
        const all = await (await openDB("duo", 1)).getAll("conversations");
        return all[0]?.nodes.find(({ role }) => role === "assistant").pieces.length;
    """
    scene.until(lambda: scene.module(stored), "a part that is stored")
    reload(scene)
    scene.until(lambda: scene.texts(".figures") == ["broke off: the page was closed"], "the part")
    assert scene.answers()[0].startswith("first more")
    scripted.pause = 0.0
    say(scripted, "again")
    scene.press("article.assistant .actions", "retry")
    scene.until(lambda: scene.answers() == ["again"], "another version")


def test_an_answer_goes_on_while_another_conversation_is_shown(scene: Page, scripted: ScriptedLead) -> None:
    say(scripted, "quick")
    scene.ask("a")
    scene.answered()
    scene["new"].click()
    scripted.scripts = [[{"content": f"{i} "} for i in range(30)]]
    scripted.pause = 0.03
    scene.ask("b")
    scene.until(lambda: scene.answers() and scene.answers()[0].startswith("0 1"), "the first words")
    scene.all("#conversations a")[1].click()
    scene.until(lambda: scene.answers() == ["quick"], "the other conversation")
    assert not scene["stop"].is_displayed()
    scene.all("#conversations a")[0].click()
    scene.until(lambda: scene.answers() == ["".join(f"{i} " for i in range(30))], "the whole answer")


def test_settings_belong_to_the_conversation(scene: Page, scripted: ScriptedLead) -> None:
    scripted.states["/props"] = {"default_generation_settings": {"params": {"temperature": 0.6, "top_k": 20}}}
    reload(scene)
    scene.until(lambda: scene["temperature"].get_attribute("placeholder") == "0.6", "the lead's defaults")
    scene.all("summary")[-1].click()
    scene["system"].send_keys("Be brief.")
    scene["top_p"].send_keys("0.5")
    scene["min_p"].send_keys("0.1")
    scene["repeat_penalty"].send_keys("1.1")
    scene["max_tokens"].send_keys("99")
    Select(scene["reasoning_effort"]).select_by_value("low")
    scene.ask("a")
    scene.answered()
    sent = scripted.asked[-1]
    assert asked(scripted) == [("system", "Be brief."), ("user", "a")]
    given = {name: sent.get(name) for name in ("top_p", "min_p", "repeat_penalty", "max_tokens", "reasoning_effort")}
    assert given == {"top_p": 0.5, "min_p": 0.1, "repeat_penalty": 1.1, "max_tokens": 99, "reasoning_effort": "low"}
    assert "temperature" not in sent and "tools" not in sent
    scene["new"].click()
    scene["system"].clear()
    scene.ask("b")
    scene.answered()
    assert asked(scripted) == [("user", "b")] and scripted.asked[-1]["top_p"] == 0.5
    reload(scene)
    assert scene["system"].get_attribute("value") == ""
    scene.until(lambda: len(titles(scene)) == 2, "the list")
    scene.all("#conversations a")[1].click()
    scene.until(lambda: scene["system"].get_attribute("value") == "Be brief.", "the settings of the first one")


def test_tools_are_called_and_their_results_sent(scene: Page, scripted: ScriptedLead) -> None:
    scene.all("summary")[-1].click()
    scene["functions"].send_keys("{")
    scene.until(lambda: scene["functions-error"].text.startswith("Tools are not sent:"), "what is wrong")
    scene["functions"].clear()
    scene["functions"].send_keys('[{"type": "function", "function": {"name": "weather"}}]')
    assert scene["functions-error"].text == ""
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": '}}
    rest = {"index": 0, "function": {"arguments": '"Köln"}'}}
    scripted.scripts = [[{"reasoning_content": "ask"}, {"tool_calls": [first]}, {"tool_calls": [rest]}]]
    say(scripted, "Rain.")
    scene.ask("the weather?")
    scene.answered()
    assert scripted.asked[-1]["tools"][0]["function"]["name"] == "weather"
    assert scene.texts(".call p") == ["calls weather"] and scene.texts(".call code") == ['{"city": "Köln"}']
    scene.all("form.results textarea")[0].send_keys("rain, 9 degrees")
    scene.press("form.results", "send results")
    scene.until(lambda: scene.answers() == ["", "Rain."], "the answer")
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    assert scripted.asked[-1]["messages"][1:] == [
        {"role": "assistant", "content": "", "reasoning_content": "ask", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "rain, 9 degrees"},
    ]
    assert scene.texts("article.tool .words") == ["weather gave rain, 9 degrees"]


def test_several_models(scene: Page, scripted: ScriptedLead) -> None:
    listed = [{"id": "small", "status": {"value": "loaded"}}, {"id": "large", "status": {"value": "unloaded"}}]
    scripted.states["/v1/models"] = {"object": "list", "data": listed}
    scene.until(scene["models"].is_displayed, "the choice")
    assert [option.text for option in Select(scene["models"]).options] == ["small", "large (unloaded)"]
    Select(scene["models"]).select_by_value("large")
    scene.ask("a")
    scene.answered()
    assert scripted.asked[-1]["model"] == "large"
    assert scene.texts(".figures")[0].endswith(" · large")
    reload(scene)
    scene.until(lambda: scene["models"].get_attribute("value") == "large", "the model of the conversation")


def test_a_long_conversation_is_kept_and_sent(scene: Page) -> None:
    """Versions make a tree, and a long one is deep."""
    kept = scene.module(
        """
        const { add, assistant, conversation, last, messages, shown, user } =
          await import("/static/js/conversation.js");
        const store = await import("/static/js/store.js");
        const long = conversation({});
        for (let turn = 0; turn < 1000; turn++) {
          add(last(long) ?? long, user(`question ${turn}`));
          add(last(long), assistant(""));
        }
        await store.save(long);
        const loaded = await store.load(long.id);
        return [shown(loaded).length, messages(loaded, last(loaded)).length, (await store.list())[0].title];
        """
    )
    assert kept == [2000, 2000, "question 0"]


def test_an_address_without_a_conversation_says_so(scene: Page) -> None:
    scene.ask("a")
    scene.answered()
    scene.script("location.hash = 'nowhere'")
    scene.until(lambda: scene["status"].text == "this browser has no such conversation", "the message")
    assert scene["empty"].is_displayed()
    scene.ask("b")
    scene.answered()
    scene["new"].click()
    scene.chrome.back()
    scene.until(lambda: scene.texts("article.user .words") == ["b"], "the conversation before the new one")


def test_copy(scene: Page, scripted: ScriptedLead) -> None:
    code = "print('<b>')"
    say(scripted, f"**bold**\n\n```python\n{code}\n```\n")
    scene.ask("a")
    scene.answered()
    # What a page over plain HTTP has: no clipboard. The older way fires an event that holds the text.
    scene.script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined, configurable: true}); window.copied = [];"
        "document.addEventListener('copy', () => copied.push(document.activeElement.value))"
    )
    scene.press("article.assistant .actions", "copy")
    scene.all("button.copier")[0].click()
    scene.press("article.user .actions", "copy")
    assert scene.script("return copied") == [f"**bold**\n\n```python\n{code}\n```\n", code, "a"]
    assert scene["status"].text == "copied"


def test_another_tab_sees_what_this_one_says(scene: Page, scripted: ScriptedLead) -> None:
    scene.ask("a")
    scene.answered()
    address = scene.chrome.current_url
    first = scene.chrome.current_window_handle
    scene.chrome.switch_to.new_window("tab")
    try:
        scene.chrome.get(address)
        scene.ready()
        scene.until(lambda: len(scene.answers()) == 1, "the conversation")
        scene.ask("b")
        scene.answered(2)
        scene.chrome.close()
    finally:
        scene.chrome.switch_to.window(first)
    scene.until(lambda: len(scene.answers()) == 2, "what was said in the other tab")


def test_two_tabs_that_speak_at_once_lose_nothing(scene: Page) -> None:
    """Each tab has a copy of its own. What one saves becomes a version beside what the other one saved."""
    found = scene.module(
        """
        const { add, assistant, conversation, last, shown, textOf, user } =
          await import("/static/js/conversation.js");
        const store = await import("/static/js/store.js");
        const root = conversation({});
        add(root, user("first"));
        await store.save(root);
        const tabs = [await store.load(root.id), await store.load(root.id)];
        const answers = tabs.map((tab, i) => {
          const answer = assistant("m");
          add(last(tab), answer);
          if (i) answer.pieces.push(["b", ""]);
          return answer;
        });
        const news = [];
        news.push(await store.save(tabs[0]), await store.save(tabs[1]));  // that of the first is empty so far
        answers[0].pieces.push(["a", ""]);
        news.push(await store.save(tabs[0]));
        Object.assign(answers[1], { pieces: [["bb", ""]], state: "done" });
        news.push(await store.save(tabs[1]), await store.save(tabs[0]));
        const versions = (tab) => tab.children[0].children.map((node) => [textOf(node), node.state]);
        const end = (tab) => textOf(last(tab));
        return { news, kept: versions(await store.load(root.id)), here: tabs.map(versions), ends: tabs.map(end) };
        """
    )
    assert found["news"] == [False, False, True, True, True]
    done, under_way = ["bb", "done"], ["a", "under way"]
    assert found["here"] == [[under_way, done], [done, under_way]]
    assert sorted(found["kept"]) == [["a", "failed"], done], "one who opens it finds the first broken off"
    assert found["ends"] == ["a", "bb"], "each tab goes on to show its own"


def test_a_conversation_of_an_older_page_gets_names_for_its_messages(scene: Page) -> None:
    found = scene.module(
        """
        const { add, assistant, conversation, flat, join, last, user } = await import("/static/js/conversation.js");
        const { unflat } = await import("/static/js/conversation.js");
        const root = conversation({});
        add(root, user("first"));
        add(last(root), assistant("m"));
        const old = flat(root);
        for (const node of old.nodes) delete node.id;
        return [join(unflat(old), old), unflat(old).children.length];
        """
    )
    assert found == [False, 1]


def test_damaged_conversations_leave_the_page_usable(scene: Page, scripted: ScriptedLead) -> None:
    """They are in the list, cannot be opened, and can be deleted."""
    scene.ask("one?")
    scene.answered()
    scene.until(lambda: titles(scene) == ["one?"], "the list")
    damage = """
        const { openDB } = await import("idb");
        const database = await openDB("duo", 1);
        const later = Date.now() + 1e6;
        for (const beside of [{}, { nodes: 5 }, { nodes: [null] }, { nodes: [{ role: "user", parent: -1, chosen: 7 }] },
                              { nodes: [{ role: "assistant", parent: -1, text: "a" }], settings: {} }]) {
          await database.put("conversations", { id: JSON.stringify(beside).length + "x", changed: later, ...beside });
        }
    """
    scene.module(damage)
    address = scene.chrome.current_url.partition("#")[0]
    scene.chrome.get(address)
    reload(scene)
    scene.until(lambda: titles(scene) == ["damaged conversation"] * 5 + ["one?"], "all of them")
    for at in range(5):
        scene.all("#conversations a")[at].click()
        scene.until(lambda: "is damaged" in scene["status"].text, "why it cannot be shown")
        scene["new"].click()
        scene.until(lambda: not scene["status"].text, "a new one")
    scene.all("#conversations button")[0].click()
    scene.chrome.switch_to.alert.accept()
    scene.until(lambda: len(titles(scene)) == 5, "one less")
    scene.all("#conversations a")[-1].click()
    scene.until(lambda: scene.answers() == ["Hello, world!"], "the sound one")
    scene.ask("two?")
    scene.answered(2)


def test_a_database_of_another_program(scene: Page, scripted: ScriptedLead) -> None:
    """Whoever had this port before may have left one. Conversations then live as long as the page."""
    address = scene.chrome.current_url
    scene.chrome.get(f"{address}static/icon.svg")
    scene.chrome.execute_async_script(
        "const ended = arguments[0];"
        "indexedDB.deleteDatabase('duo').onsuccess = () => {"
        "  const made = indexedDB.open('duo', 1);"
        "  made.onupgradeneeded = () => made.result.createObjectStore('others');"
        "  made.onsuccess = () => { made.result.close(); ended(); };"
        "};"
    )
    scene.chrome.get(address)
    scene.ready()
    assert scene["not-kept"].is_displayed()
    scene.ask("one?")
    scene.answered()
    scene.until(lambda: titles(scene) == ["one?"], "the list")


def test_a_browser_that_keeps_nothing(scene: Page, scripted: ScriptedLead) -> None:
    """As one that blocks cookies: it throws as soon as a page asks for storage."""
    blocked = """
        for (const name of ["localStorage", "sessionStorage", "indexedDB"]) {
          Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });
        }
    """
    added = scene.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": blocked})
    try:
        scene.chrome.refresh()
        scene.ready()
        assert scene["not-kept"].is_displayed()
        scene["theme"].click()
        scene.ask("one?")
        scene.answered()
        scene.until(lambda: titles(scene) == ["one?"], "the list")
    finally:
        scene.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
