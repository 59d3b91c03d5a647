"""The explorer in a real browser: opens from the disk, shows what the arrays hold, and asks nothing of any network."""

import functools
import http.server
import io
import json
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetrep_jax import explorer
from unetrep_jax.data.photographs import open_photographs
from unetrep_jax.explorer import pieces, sheets, writing
from unetrep_jax.storage import InputError

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
IMAGES, CHANNELS = 300, 20  # more than one piece of each kind
DULL = 11  # an image that excites no channel above its mean
PATIENCE = 60  # seconds until a view counts as not opening

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver: apt-get install chromium chromium-driver"
)


@functools.cache
def collection():
    """Arrays of every kind, with names that try to be markup."""
    rng = np.random.default_rng(0)
    phi = rng.gamma(1.0, size=(IMAGES, CHANNELS)).astype(np.float32)
    phi[:, 3] = 0.25  # the same for all images
    # Smooth pictures, each of its own colours: one that stood in another's place would be seen.
    corners = rng.uniform(0, 255, (2, 2, IMAGES, 3))
    t = np.linspace(0, 1, 16)
    rows = corners[0][:, :, None] * (1 - t)[:, None] + corners[1][:, :, None] * t[:, None]
    images = np.einsum("cnyk,cx->nyxk", rows, np.stack([1 - t, t])).astype(np.uint8)
    assignment = rng.integers(0, 6, IMAGES)
    nearest = np.array([[(k + 1) % 6, (k + 2) % 6] for k in range(6)])
    top = np.argsort(-phi, axis=0, kind="stable")[:5].T
    top[3] = -1
    top[5, 2:] = -1
    return explorer.Collection(
        title=f"What {HOSTILE} knows",
        checkpoint=f"{HOSTILE}, step 9",
        level="At 100/255, mean of 2 draws",
        facts={"command": HOSTILE},
        images=images,
        names=[f"photographs/{i}{HOSTILE}.png" for i in range(IMAGES)],
        labels=rng.integers(0, 4, IMAGES),
        class_names=["heron", "otter", HOSTILE, "</script><b>bold</b>"],
        phi=phi,
        image_numbers={"participation ratio of phi": rng.random(IMAGES)},
        sigmas=(0.0, 50.0, 100.0),
        working=2,
        channels=explorer.Channels(
            numbers={"selectivity": np.linspace(0, 1, CHANNELS), "excess kurtosis": np.full(CHANNELS, np.nan)},
            groups={"specialised": np.arange(CHANNELS) < 5},
            threshold=np.full(CHANNELS, 2.0),
            level_means=rng.random((3, CHANNELS)) / 1000,
            level_correlations=rng.random((3, CHANNELS)),
            companions=np.stack([np.delete(np.arange(CHANNELS), c)[:4] for c in range(CHANNELS)]),
            companion_correlations=np.where(np.arange(CHANNELS)[:, None] == 3, np.nan, rng.random((CHANNELS, 4))),
        ),
        layouts={"t-SNE of phi": rng.normal(size=(IMAGES, 2)), "a line": np.eye(2)[0] * np.arange(IMAGES)[:, None]},
        top=explorer.TopImages(top, rng.random((CHANNELS, 5, 4, 4))),
        fires=explorer.Fires(
            "the specialised channels",
            np.tile(np.arange(5), (IMAGES, 1)),
            np.where(np.arange(IMAGES)[:, None] == DULL, -1, np.linspace(1.5, -0.3, 5)),
            rng.random((IMAGES, 5, 4, 4)),
        ),
        neighbours={space: rng.integers(0, IMAGES, (IMAGES, 6)) for space in ("cosine of phi", "pixels")},
        clusterings=[explorer.Clustering(assignment, rng.random(IMAGES), nearest, rng.random((6, 2)))],
        reconstructions=[
            explorer.Reconstructions("Way of making it: one.", "From 1 to 0.03", np.array([4, 4, 9]), images[[20, 21, 22]] / 255.0)
        ],
        missing=[explorer.Missing("t-SNE of pixels", HOSTILE, "python analyze.py --only something")],
    )


def least():
    """As little as there can be: 20 grey images, one channel, no labels, no stage but the sweep."""
    of_channel = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
    command = "python analyze.py --ckpt runs/mine --only {} explorer"
    absent = [explorer.Missing(what, "", command.format(what.lower())) for what in ("Clusters", "Neighbours", "Selectivity")]
    one, none = np.array([[0.5]]), np.zeros((1, 0))
    return explorer.Collection(
        title="What little knows of 20 images",
        checkpoint="little",
        level="Without noise",
        facts={},
        images=np.arange(20 * 64).astype(np.uint8).reshape(20, 8, 8, 1),
        names=(),
        labels=None,
        class_names=(),
        phi=of_channel,
        image_numbers={},
        sigmas=(0.0,),
        working=0,
        channels=explorer.Channels({"mean": one[0]}, {}, None, one, one, none.astype(int), none),
        layouts={"principal components of phi": np.pad(of_channel, ((0, 0), (0, 1)))},
        missing=absent,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    # A folder whose name needs escaping in an address.
    folder = tmp_path_factory.mktemp("pages") / "explörer #1 of me?"
    explorer.write(folder, collection())
    return folder


class Browser:
    """A page in Chromium."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, address, fragment=""):
        self.driver.get("about:blank")
        self.logs()
        self.driver.get(address + fragment)
        self.wait(fragment)

    def go(self, fragment):
        self.driver.execute_script("location.hash = arguments[0]", fragment)
        self.wait(fragment)

    def wait(self, fragment):
        began = time.monotonic()
        while self.run("return document.getElementById('main')?.dataset.ready") != fragment:
            assert time.monotonic() - began < PATIENCE, f"{fragment} did not open: {self.text()}"
            time.sleep(0.01)

    def until(self, condition):
        began = time.monotonic()
        while not (found := self.run(f"return {condition}")):
            assert time.monotonic() - began < PATIENCE, f"{condition} did not come true"
            time.sleep(0.01)
        return found

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self):
        return self.run("return document.getElementById('main').innerText")

    def of_all(self, selector, expression):
        """A JavaScript expression of each element `of` that the selector finds."""
        return self.run(f"return [...document.querySelectorAll(arguments[0])].map((of) => {expression})", selector)

    def links(self, selector):
        return self.of_all(selector, "of.getAttribute('href')")

    def logs(self):
        """(what the console complained of, what was asked for since the last look)."""
        complaints = [line["message"] for line in self.driver.get_log("browser")]
        events = [json.loads(line["message"])["message"] for line in self.driver.get_log("performance")]
        asked = [of["params"]["request"]["url"] for of in events if of["method"] == "Network.requestWillBeSent"]
        return complaints, asked


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    quiet = ("no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "disable-quic")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1200,900", *quiet):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(PATIENCE)
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def opened(browser, page):
    browser.open((page / "index.html").as_uri(), "#map")
    return browser


VIEWS = ("#map", "#images", "#images?label=2", "#image/0", "#image/4", "#image/299", "#channels",
         "#channels?by=selectivity&order=smallest",
         "#channel/0", "#channel/3", "#channel/19", "#clusters", "#cluster/6/2", "#about")  # fmt: skip


@needs_browser
def test_every_view_opens_from_the_disk_without_a_complaint_and_asks_nothing_of_a_network(opened, page):
    for view in VIEWS:
        opened.go(view)
        assert "not found" not in opened.text().lower(), view
        assert opened.run("return document.querySelectorAll('main h1').length") == 1
    complaints, asked = opened.logs()
    assert complaints == []
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)


@needs_browser
def test_the_same_files_work_from_a_web_host(browser, page):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(page))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        browser.open(address, "#image/7")
        browser.go("#channel/2")
        complaints, asked = browser.logs()
        server.shutdown()
    assert [line for line in complaints if "favicon" not in line] == []
    assert all(url.startswith(address.rsplit("/", 1)[0]) for url in asked)


@needs_browser
def test_names_are_text_and_never_markup(opened):
    seen = ""
    for view in VIEWS:
        opened.go(view)
        seen += opened.text()
        assert opened.run("return document.querySelectorAll('main img, main b, main script').length") == 0, view
    assert HOSTILE in seen and "</script><b>bold</b>" in seen and "photographs/299" in seen
    assert "owned" not in opened.run("return document.title.replace(arguments[0], '')", HOSTILE)


@needs_browser
@pytest.mark.parametrize("i", [0, 255, 256, 299])
def test_phi_of_an_image_is_that_of_the_array(opened, i):
    shown = np.array(opened.run(f"return explorer.phiOfImage({i}).then((of) => Array.from(of))"))
    spread = np.ptp(collection().phi, axis=0)
    np.testing.assert_allclose(shown, collection().phi[i], rtol=1e-5, atol=(spread / 65535 * 0.51).max())
    np.testing.assert_allclose(shown[3], 0.25)


@needs_browser
@pytest.mark.parametrize("c", [0, 3, 16, 19])
def test_a_channel_over_all_images_is_that_of_the_array(opened, c):
    shown = np.array(opened.run(f"return explorer.phiOfChannel({c}).then((of) => Array.from(of))"))
    np.testing.assert_allclose(shown, collection().phi[:, c], atol=np.ptp(collection().phi[:, c]) / 65535 * 0.51 + 1e-6)


@needs_browser
def test_an_image_shows_its_nearest_ones_its_cluster_its_label_and_its_channels(opened):
    found, i = collection(), 7
    opened.go(f"#image/{i}")
    titles = opened.of_all("main section h2", "of.innerText")
    nearest = f"main section:nth-of-type({titles.index('Nearest images') + 1}) figure"
    rows = opened.of_all(nearest, "[...of.querySelectorAll('a.thumb')].map((a) => a.getAttribute('href'))")
    assert rows == [[f"#image/{j}" for j in index[i]] for index in found.neighbours.values()]
    marked = opened.links("a.thumb.marked")
    alike = [f"#image/{j}" for index in found.neighbours.values() for j in index[i] if found.labels[j] == found.labels[i]]
    assert marked == alike
    links = opened.links("dl a")
    assert f"#cluster/6/{found.clusterings[0].assignment[i]}" in links and f"#images?label={found.labels[i]}" in links
    assert f"{found.image_numbers['participation ratio of phi'][i]:.3}"[:4] in opened.text()
    assert f"photographs/{i}<img" in opened.text()
    assert opened.links(".card > a") == [f"#channel/{c}" for c in found.fires.channels[i, :4]]  # the last one lies below its mean
    opened.go(f"#image/{DULL}")
    assert opened.links(".card > a") == [] and "None of the specialised channels lies above its mean" in opened.text()


@needs_browser
def test_where_a_channel_fires_is_light_and_the_rest_is_dark(opened):
    found, c = collection(), 17
    opened.go(f"#channel/{c}")
    pixels = np.array(opened.of_all("canvas.spotlight", "[...of.getContext('2d').getImageData(0, 0, 4, 4).data]"))
    dark = pixels[:, 3::4]
    maps = found.top.maps[c].reshape(5, -1)
    np.testing.assert_allclose(dark, 215 * (1 - maps / maps.max(1, keepdims=True)), atol=1.5)
    assert opened.links("main .thumbs a")[:5] == [f"#image/{i}" for i in found.top.index[c]]


@needs_browser
def test_a_channel_shows_its_numbers_its_values_and_its_companions(opened):
    found, c = collection(), 4
    opened.go(f"#channel/{c}")
    assert f"selectivity\n{c / (CHANNELS - 1):.3}" in opened.text() and "specialised" in opened.text()
    assert opened.links("main table a[href^='#channel']") == [f"#channel/{other}" for other in found.channels.companions[c]]
    assert "the largest phi of any image without noise" in opened.text()
    heights = np.array(opened.of_all("main svg rect.bar", "Number(of.getAttribute('height'))"))
    expected = np.histogram(found.phi[:, c], bins=60)[0]
    assert len(heights) == 60
    np.testing.assert_allclose(heights / heights.max(), expected / expected.max(), atol=2.5 / expected.max())


@needs_browser
@pytest.mark.parametrize(("zeros", "heights"), [(100, [105, 105 * np.log(4) / np.log(101)]), (4, [105, 105 * 3 / 4])])
def test_the_few_images_of_a_channel_that_seldom_fires_can_be_seen(opened, zeros, heights):
    drawn = "histogram([...new Array(arguments[0]).fill(0), 0.5, 1, 1, 1], { unit: 'phi' })"
    found = opened.run(f"return [...{drawn}.querySelectorAll('rect')].map((of) => Number(of.getAttribute('height')))", zeros)
    np.testing.assert_allclose([found[0], found[-1]], heights, rtol=1e-6)
    assert ("logarithms" in opened.run(f"return {drawn}.getAttribute('aria-label')", zeros)) == (zeros == 100)


@needs_browser
def test_a_cluster_lists_its_members_by_distance_its_labels_and_its_neighbours(opened):
    found = collection()
    clustering, c = found.clusterings[0], 2
    opened.go(f"#cluster/6/{c}")
    members = np.flatnonzero(clustering.assignment == c)
    members = members[np.argsort(clustering.distance[members])]
    assert opened.links("main section:first-of-type .thumbs a")[: len(members)] == [f"#image/{i}" for i in members[:60]]
    counts = np.bincount(found.labels[members], minlength=4)
    first = opened.of_all("main table tbody tr", "of.innerText")[0].split("\t")
    assert int(first[1]) == counts.max()
    assert opened.links("main figcaption a") == [f"#cluster/6/{other}" for other in clustering.nearest[c]]


def looks_like(browser, selector, image, exactly=False):
    """Whether what is seen of an element is the image, in every pixel or on average; a wrong one would be far off."""
    from selenium.webdriver.common.by import By

    element = browser.driver.find_element(By.CSS_SELECTOR, selector)
    for _ in range(50):  # until the sheet is decoded
        seen = np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB"))
        expected = np.asarray(Image.fromarray(image).resize(seen.shape[1::-1], Image.Resampling.NEAREST))
        off = abs(seen.astype(int) - expected)
        if (off.max() if exactly else off.mean()) < 6:
            return True
        time.sleep(0.1)
    return False


@needs_browser
@pytest.mark.parametrize("i", [0, 15, 16, 255, 256, 290, 299])
def test_a_picture_on_the_screen_is_the_image(opened, i):
    opened.go(f"#image/{i}")
    assert looks_like(opened, "main figure .tile", collection().images[i])


@needs_browser
def test_a_reconstruction_on_the_screen_is_the_one_of_that_image(opened):
    opened.go("#image/4")
    for number, i in ((1, 20), (2, 21)):
        assert looks_like(opened, f"[aria-label='sample {number}']", collection().images[i])
    opened.go("#image/9")
    assert looks_like(opened, "[aria-label='sample 1']", collection().images[22])


@needs_browser
def test_a_click_on_the_map_opens_the_image_and_the_back_button_returns(opened):
    opened.go("#map?layout=a+line")
    image = 150
    x, y = opened.run(
        "const plane = document.querySelector('canvas.plane'); const box = plane.getBoundingClientRect();"
        "const [width, height] = [plane.clientWidth, plane.clientHeight];"
        "const x = width / 2 + (arguments[0] / arguments[1] - 0.5) * (Math.min(width, height) - 24);"
        "return [box.left + plane.clientLeft + x, box.top + plane.clientTop + height / 2];",
        image,
        IMAGES - 1,
    )
    for kind in ("pointerdown", "pointerup"):
        event = f"new PointerEvent('{kind}', {{ clientX: {x}, clientY: {y}, pointerId: 1, bubbles: true }})"
        opened.run(f"document.querySelector('canvas.plane').dispatchEvent({event})")
    opened.wait(f"#image/{image}")
    opened.driver.back()
    opened.wait("#map?layout=a+line")


def press(browser, kind, x, y, **more):
    """A pointer on the map, at a place counted from its corner."""
    details = {"pointerId": 1, "bubbles": True, "buttons": 1} | more
    script = (
        "const plane = document.querySelector('canvas.plane'); const box = plane.getBoundingClientRect();"
        "plane.dispatchEvent(new PointerEvent(arguments[0], { ...arguments[3],"
        " clientX: box.left + plane.clientLeft + arguments[1], clientY: box.top + plane.clientTop + arguments[2] }))"
    )
    browser.run(script, kind, x, y, details)


def drag(browser, x, y, dx):
    press(browser, "pointerdown", x, y)
    for step in range(1, 5):
        press(browser, "pointermove", x + dx * step / 4, y)
    press(browser, "pointerup", x + dx, y)


@needs_browser
@pytest.mark.parametrize("fragment", ["", "#map"])
def test_where_one_has_moved_on_the_map_is_in_its_address_and_there_after_going_back(browser, page, fragment):
    browser.open((page / "index.html").as_uri(), fragment)
    drag(browser, 300, 200, 120)
    browser.until("location.hash.includes('zoom=')")
    address = browser.run("return location.hash")
    assert "x=0.5&" not in address
    drag(browser, 300, 200, -50)  # and at once to another view
    browser.go("#about")
    browser.driver.back()
    browser.until("document.querySelector('canvas.plane') !== null")
    assert browser.run("return location.hash").startswith("#map?")


@needs_browser
def test_moving_and_choosing_another_colour_at_once_keeps_the_colour(opened):
    opened.go("#map")
    drag(opened, 300, 200, 80)
    opened.run(
        "const select = document.getElementById('choice-Colour'); select.value = 1; select.dispatchEvent(new Event('change'))"
    )
    opened.until("document.getElementById('main').innerText.includes('the colour of its label')")
    time.sleep(0.5)
    assert "colour=label" in opened.run("return location.hash")


@needs_browser
def test_pointing_at_the_map_shows_the_image_and_only_the_first_button_opens_it(opened):
    opened.go("#map?layout=a+line")
    width, height = opened.run("const of = document.querySelector('canvas.plane'); return [of.clientWidth, of.clientHeight]")
    x = width / 2 + (30 / (IMAGES - 1) - 0.5) * (min(width, height) - 24)
    press(opened, "pointermove", x, height / 2, buttons=0)
    assert "image 30" in opened.until("document.querySelector('.pointed-image:not([hidden])')?.innerText")
    press(opened, "pointerdown", x, height / 2, button=2, buttons=2)
    press(opened, "pointerup", x, height / 2, button=2, buttons=0)
    time.sleep(0.2)
    assert opened.run("return location.hash").startswith("#map")


@needs_browser
def test_the_bars_of_phi_answer_to_keys(opened):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    opened.go("#image/3")
    bars = opened.driver.find_element(By.CSS_SELECTOR, "svg[role=slider]")
    bars.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    deviation = (collection().phi[3, 2] - collection().phi[:, 2].mean()) / collection().phi[:, 2].std()
    assert bars.get_attribute("aria-valuetext") == f"channel 2, {float(f'{deviation:.3g}'):g}"
    bars.send_keys(Keys.ENTER)
    opened.wait("#channel/2")


@needs_browser
def test_going_back_returns_to_where_one_was_and_a_link_leads_to_the_top(opened):
    opened.go("#images")
    opened.run("window.scrollTo(0, 700)")
    opened.run("document.querySelector('main .thumbs a:nth-child(40)').click()")
    opened.wait("#image/39")
    assert opened.run("return [window.scrollY, document.activeElement.tagName]") == [0, "H1"]
    opened.driver.back()
    opened.wait("#images")
    assert opened.run("return window.scrollY") > 400


@needs_browser
def test_a_choice_keeps_the_focus(opened):
    opened.go("#channels")
    choose = "of.focus(); of.value = 1; of.dispatchEvent(new Event('change'))"
    opened.run(f"const of = document.getElementById('choice-Order'); {choose}")
    opened.until("location.hash.includes('by=selectivity') && document.getElementById('main').dataset.ready === location.hash")
    assert opened.run("return document.activeElement.id") == "choice-Order"


def find(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.driver.find_element(By.CSS_SELECTOR, selector)


@needs_browser
def test_one_clicks_from_view_to_view_and_going_back_finds_the_link_again(opened):
    found = collection()
    cluster = found.clusterings[0].assignment[0]
    ways = [  # what is clicked, where it leads
        ("header a[href='#images']", "#images"),
        ("main .thumbs a", "#image/0"),
        (f"main dl a[href='#cluster/6/{cluster}']", f"#cluster/6/{cluster}"),
        ("main table a[href^='#channel']", None),
        (f"main a[href^='#cluster/6/']:not([href$='/{cluster}'])", None),
        ("main a[href='#map?colour=clusters-6']", "#map?colour=clusters-6"),
    ]
    visited = ["#map"]
    for selector, address in ways:
        link = find(opened, selector)
        address = address or opened.run("return arguments[0].hash", link)
        link.click()
        opened.wait(address)
        visited.append(address)
    for left, address in zip(visited[::-1], visited[-2::-1], strict=False):
        opened.driver.back()
        opened.wait(address)
        if address != "#map":  # which was left by the head's link
            assert opened.run("return document.activeElement.getAttribute('href')") == left


@needs_browser
def test_a_link_to_where_one_is_does_not_make_going_back_lead_to_the_top(opened):
    opened.go("#images")
    opened.run("window.scrollTo(0, 700)")
    opened.run("document.querySelector('main .thumbs a:nth-child(40)').click()")
    opened.wait("#image/39")
    opened.run("const link = h('a', { href: '#image/39' }); document.querySelector('main').append(link); link.click()")
    opened.driver.back()
    opened.wait("#images")
    assert opened.run("return window.scrollY") > 400


@needs_browser
def test_more_members_of_a_cluster_begin_with_the_focus_on_the_first_new_one(browser, tmp_path):
    found = collection()
    clustering = found.clusterings[0]._replace(assignment=np.zeros(IMAGES, int))
    explorer.write(tmp_path / "page", found._replace(clusterings=[clustering]))
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#cluster/6/0")
    find(browser, "main p a[href*='show=']").click()
    browser.wait("#cluster/6/0?show=240&from=60")
    order = np.argsort(clustering.distance)
    assert browser.run("return document.activeElement.getAttribute('href')") == f"#image/{order[60]}"
    note = browser.run("return document.activeElement.querySelector('.note').innerText")
    assert float(note) == pytest.approx(clustering.distance[order[60]], rel=0.01)
    browser.driver.back()
    browser.wait("#cluster/6/0")
    assert browser.run("return document.activeElement.textContent") == "Show more"


@needs_browser
def test_arrow_keys_turn_pages_but_not_with_shift_and_letters_do_nothing(opened):
    from selenium.webdriver import ActionChains, Keys

    opened.go("#image/4")
    ActionChains(opened.driver).send_keys("m").key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    assert opened.run("return location.hash") == "#image/4"
    ActionChains(opened.driver).send_keys(Keys.ARROW_RIGHT).perform()
    opened.wait("#image/5")


@needs_browser
def test_the_end_of_a_drag_over_the_bars_opens_nothing_and_a_click_does(opened):
    script = (
        "const svg = document.querySelector('svg[role=slider]'); const box = svg.getBoundingClientRect();"
        "const [kind, x] = arguments; svg.dispatchEvent(new PointerEvent(kind, { pointerType: 'mouse', button: 0,"
        " clientX: box.left + x * box.width, clientY: box.top + 20, bubbles: true }))"
    )
    opened.go("#image/3")
    for kind, x in (("pointerup", 0.5), ("pointerdown", 0.2), ("pointerup", 0.6)):
        opened.run(script, kind, x)
    time.sleep(0.1)
    assert opened.run("return location.hash") == "#image/3"
    for kind in ("pointerdown", "pointerup"):
        opened.run(script, kind, 2.5 / CHANNELS)
    opened.wait("#channel/2")


@needs_browser
def test_labels_that_no_image_has_are_said_to_be_so(browser, tmp_path):
    found = collection()
    explorer.write(tmp_path / "page", found._replace(labels=np.where(found.labels == 2, 1, found.labels)))
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#images?label=2")
    assert "No image has this label." in browser.text()
    assert browser.of_all("#choice-Label option", "of.innerText") == ["all", "heron", "otter", "</script><b>bold</b>"]
    for view in ("#images?label=4", "#images?label=x", "#images?label="):
        browser.go(view)
        assert "There is no label" in browser.text()


@needs_browser
def test_a_channel_that_is_the_same_for_all_images_says_so_and_one_that_few_excite_shows_these(opened):
    opened.go("#channel/3")
    assert opened.text().count("None: its phi is the same for all images.") == 2
    assert "None: only channels that differ over images have correlations." in opened.text()
    opened.go("#channel/5")
    assert len(opened.links("main section:first-of-type figure:first-of-type .thumbs a")) == 2
    assert "The 2 images with the largest phi of channel 5" in opened.text()
    assert "No other image lies above its least value." in opened.text()


@needs_browser
def test_clusters_and_channels_link_to_what_is_highest_in_each_other(opened):
    found = collection()
    phi, assignment = found.phi.astype(float), found.clusterings[0].assignment
    means = np.stack([phi[assignment == k].mean(0) for k in range(6)])
    excess = (means - phi.mean(0)) / np.where(phi.std(0) > 0, phi.std(0), np.inf)
    excess[:, 3] = 0
    opened.go("#cluster/6/2")
    order = [c for c in np.argsort(-excess[2]) if excess[2, c] > 0][:8]
    assert opened.links("main table a[href^='#channel']") == [f"#channel/{c}" for c in order]
    shown = opened.of_all("main section:nth-of-type(3) td", "Number(of.innerText)")
    np.testing.assert_allclose(shown, excess[2, order], rtol=0.01)
    opened.go("#channel/4")
    order = [k for k in np.argsort(-excess[:, 4]) if excess[k, 4] > 0][:5]
    assert opened.links("main table a[href^='#cluster']") == [f"#cluster/6/{k}" for k in order]


@needs_browser
def test_the_picture_on_top_is_the_one_that_is_pointed_at_with_what_its_colour_means(opened):
    opened.go("#map?layout=a+line&colour=channel-7&x=0.5&y=0.5&zoom=6")
    width, height = opened.run("const of = document.querySelector('canvas.plane'); return [of.clientWidth, of.clientHeight]")
    step = (min(width, height) - 24) * 6 / (IMAGES - 1)
    assert 1.5 * step > 15  # pictures, which lie half over their neighbours
    press(opened, "pointermove", width / 2 + 0.9 * step, height / 2, buttons=0)  # 0.4 from image 150, which 151 covers
    text = opened.until("document.querySelector('.pointed-image:not([hidden])')?.innerText")
    assert "image 151" in text
    assert f"channel 7: {float(f'{collection().phi[151, 7]:.3g}'):g}" in text
    opened.go("#map?layout=a+line&colour=clusters-6")
    press(opened, "pointermove", width / 2, height / 2, buttons=0)
    assert re.search(r"cluster \d", opened.until("document.querySelector('.pointed-image:not([hidden])')?.innerText"))


@needs_browser
def test_the_map_may_be_coloured_by_any_channel(opened):
    opened.go("#map")
    choose = "of.value = arguments[0]; of.dispatchEvent(new Event('change'))"
    opened.run(f"const of = document.getElementById('colour-channel'); {choose}", CHANNELS)
    assert "channel-" not in opened.run("return location.hash")
    opened.run(f"const of = document.getElementById('colour-channel'); {choose}", CHANNELS - 1)
    opened.until(f"document.getElementById('main').innerText.includes('phi of channel {CHANNELS - 1}, from')")


@needs_browser
def test_moving_over_empty_places_of_the_map_says_that_nothing_is_there(opened):
    from selenium.webdriver import Keys

    opened.go("#map?layout=a+line&x=0.5&y=0.5&zoom=3")
    find(opened, "canvas.plane").send_keys(Keys.ARROW_DOWN)
    assert "image" in opened.until("document.querySelector('.plane-frame [role=status]').textContent")
    find(opened, "canvas.plane").send_keys(Keys.ARROW_DOWN * 3)
    assert opened.until("document.querySelector('.plane-frame [role=status]').textContent === 'no image in the middle'")


@needs_browser
def test_the_map_keeps_few_sheets_beside_those_in_view(opened):
    opened.run("MAP.sheets = 0")
    opened.go("#map?layout=a+line&x=0.5&y=0.5&zoom=8")
    count = (
        "const plane = new Plane({ points: Float32Array.from({ length: 600 }, (_, i) => (i % 2 ? 0.5 : i / 598)),"
        " colours: new Array(300).fill('red'), view: { x: arguments[0], y: 0.5, zoom: 8 }, ring: null });"
        "document.querySelector('.plane-frame').replaceChildren(plane.canvas); plane.resize(); plane.drawNow();"
        "plane.view.x = arguments[1]; plane.drawNow(); return [...plane.sheets.keys()].map((of) => of.split('?')[0])"
    )
    assert opened.run(count, 0, 1) == ["images/1.jpg"]
    opened.run("MAP.sheets = 64")
    assert opened.run(count, 0, 1) == ["images/0.jpg", "images/1.jpg"]


def emulate(browser, **what):
    """A screen of another size, or another colour scheme; without arguments the usual ones."""
    if what.get("width"):
        browser.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": what["width"], "height": 640, "deviceScaleFactor": 1, "mobile": False}
        )
    else:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    features = [{"name": "prefers-color-scheme", "value": what.get("scheme", "light")}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@needs_browser
def test_on_a_narrow_phone_nothing_scrolls_sideways_and_labels_of_plots_are_whole(browser, tmp_path):
    name = "a_run_with_a_very_long_name_" * 6
    found = collection()
    explorer.write(tmp_path / "page", found._replace(checkpoint=name, title=name))
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#map")
    emulate(browser, width=320)
    try:
        for view in (*VIEWS, "#image/5"):
            browser.go(view)
            inside, seen = browser.run("const of = document.documentElement; return [of.scrollWidth, of.clientWidth]")
            assert inside <= seen <= 320, view
            ends = np.array(browser.of_all("svg text", "[of.getBBox().x, of.getBBox().x + of.getBBox().width]"))
            assert ((ends > -1) & (ends < 641)).all(), view
    finally:
        emulate(browser)


CONTRASTS = """
const canvas = document.createElement("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });
const luminance = (colour) => {
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  const linear = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((of) => {
    const value = of / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
const dark = darkPaper().matches;
const style = (element, name) => getComputedStyle(element)[name];
const paper = luminance(style(document.body, "backgroundColor"));
const ramp = Array.from({ length: 51 }, (_, i) => luminance(rampColour(i / 50, dark)));
return {
  dark,
  paper,
  text: contrast(paper, luminance(style(document.body, "color"))),
  soft: contrast(paper, luminance(style(document.querySelector("figcaption"), "color"))),
  links: contrast(paper, luminance(style(document.querySelector("main a"), "color"))),
  categories: Math.min(...Array.from({ length: 200 }, (_, i) => contrast(paper, luminance(categoryColour(i, dark))))),
  ramp: Math.min(...ramp.map((of) => contrast(paper, of))),
  steps: Math.min(...ramp.slice(1).map((of, i) => of - ramp[i])),
  drawn: [...document.querySelectorAll("canvas.plane")].length,
};
"""


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_stands_out_from_light_and_from_dark_paper(opened, scheme):
    emulate(opened, scheme=scheme)
    try:
        opened.go("#image/4")
        seen = opened.run(CONTRASTS)
    finally:
        emulate(opened)
    assert seen["dark"] == (scheme == "dark") and (seen["paper"] < 0.02) == seen["dark"]
    assert min(seen["text"], seen["soft"], seen["links"]) >= 4.5  # WCAG 2.2, 1.4.3
    assert min(seen["categories"], seen["ramp"]) >= 3  # 1.4.11
    assert seen["steps"] > 0


@needs_browser
def test_the_map_is_painted_anew_when_the_paper_turns_dark(opened):
    drawing = "document.querySelector('canvas.plane').toDataURL()"
    opened.go("#map?layout=a+line")
    time.sleep(0.5)
    light = opened.run(f"return {drawing}")
    emulate(opened, scheme="dark")
    try:
        opened.until(f"{drawing} !== '{light}'")
    finally:
        emulate(opened)
    opened.until(f"{drawing} === '{light}'")


@needs_browser
def test_pictures_are_smooth_until_they_are_twice_as_large_as_they_are(opened):
    opened.go("#image/4")
    assert opened.run("return getComputedStyle(document.querySelector('main .tile')).imageRendering") == "pixelated"
    tiles = "[24, 31, 32, 192].map((size) => tile(0, size).classList.contains('enlarged'))"
    assert opened.run(f"return {tiles}") == [False, False, True, True]


@needs_browser
def test_a_picture_made_smaller_takes_no_colour_from_its_neighbours(browser, tmp_path):
    found = collection()
    plain = np.zeros((IMAGES, 64, 64, 3), np.uint8)
    plain[::2] = 255  # black and white in turn
    explorer.write(tmp_path / "page", found._replace(images=plain))
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#about")
    for size in (23, 40, 50, 72):
        browser.run("document.querySelector('main').replaceChildren(h('p', {}, tile(21, arguments[0])))", size)
        assert looks_like(browser, "main .tile", plain[21], exactly=True), size


@needs_browser
def test_the_map_answers_to_keys(opened):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    opened.go("#map?layout=a+line&x=0.5&y=0.5&zoom=1")
    plane = opened.driver.find_element(By.CSS_SELECTOR, "canvas.plane")
    plane.send_keys("+++", Keys.ARROW_RIGHT, Keys.ENTER)
    opened.until("location.hash.startsWith('#image/')")
    assert int(opened.run("return location.hash").split("/")[1]) > 150


@needs_browser
@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("12", "#image/12"),
        ("channel 5", "#channel/5"),
        ("Cluster 3", "#cluster/6/3"),
        ("otter", "#images?label=1"),
        ("photographs/41", "#image/41"),
    ],
)
def test_the_search_field_finds_things(opened, text, address):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    opened.driver.find_element(By.ID, "goto").send_keys(text, Keys.ENTER)
    opened.wait(address)


def search(browser, text):
    from selenium.webdriver import Keys
    from selenium.webdriver.common.by import By

    field = browser.driver.find_element(By.ID, "goto")
    field.clear()
    field.send_keys(text, Keys.ENTER)


@needs_browser
def test_a_search_for_nothing_says_so_moves_nothing_and_is_forgotten_in_the_next_view(opened):
    top = "return document.querySelector('main h1').getBoundingClientRect().top"
    before = opened.run(top)
    search(opened, "unicorn")
    assert opened.until("document.getElementById('gone').textContent.endsWith('unicorn.')")
    assert opened.run(top) == before
    opened.go("#about")
    assert opened.run("return document.getElementById('gone').textContent") == ""


@needs_browser
def test_numbers_and_labels_are_found_where_names_are_damaged_and_the_damage_is_said(browser, page, tmp_path):
    copy = shutil.copytree(page, tmp_path / "page")
    (copy / "data" / "names.js").write_text("explorer.take(")
    browser.open((copy / "index.html").as_uri(), "#map")
    search(browser, "photographs/41")
    assert browser.until("document.getElementById('gone').textContent.includes('data/names.js is missing or damaged')")
    for text, address in (("channel 2", "#channel/2"), ("otter", "#images?label=1")):
        search(browser, text)
        browser.wait(address)


@needs_browser
@pytest.mark.parametrize(
    "view", ["#image/300", "#image/x", "#channel/20", "#cluster/6/6", "#cluster/7/0", "#nothing", "#constructor", "#map?at=300"]
)
def test_an_address_of_nothing_says_what_there_is(opened, view):
    opened.go(view)
    assert "Not found" in opened.text() and "There is no" in opened.text()
    opened.go("#about")
    assert "About" in opened.text()


@needs_browser
def test_reconstructions_stand_with_their_image_and_others_say_which_have_some(opened):
    opened.go("#image/4")
    assert opened.run("return document.querySelectorAll('[aria-label^=\"sample \"]').length") == 2
    row = "main section:last-of-type .thumbs .tile"
    assert opened.of_all(row, "of.getAttribute('aria-label')") == ["original", "sample 1", "sample 2"]
    assert looks_like(opened, row, collection().images[4])
    opened.go("#image/5")
    assert {"#image/4", "#image/9"} <= set(opened.links("main section:last-of-type a"))


@needs_browser
def test_every_picture_has_a_line_below_it_and_every_control_a_name(opened):
    for view in VIEWS:
        opened.go(view)
        assert all(opened.of_all("figure", "of.querySelector('figcaption')?.innerText.length > 5")), view
        assert all(opened.of_all(".tile", "Boolean(of.closest('figure'))")), view
        named = "Boolean(of.innerText || of.getAttribute('aria-label') || of.labels?.length)"
        assert all(opened.of_all("a, button, select, input, canvas[tabindex], svg", named)), view


@needs_browser
def test_the_least_that_there_can_be_is_shown_with_the_commands_that_add_the_rest(browser, tmp_path):
    explorer.write(tmp_path / "page", least())
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#map")
    for view in ("#map", "#images", "#image/19", "#channels", "#channel/0", "#clusters", "#about"):
        browser.go(view)
        assert "Not found" not in browser.text()
    browser.go("#clusters")
    assert "python analyze.py --ckpt runs/mine --only clusters explorer" in browser.text()
    assert browser.logs()[0] == []


def version_in(folder):
    """What index.html adds to the address of every script."""
    versions = set(re.findall(r'(?:src|href)="[^"]+\.(?:js|css)(?:\?v=(\w+))?"', (folder / "index.html").read_text()))
    assert len(versions) == 1 and all(versions)
    return versions.pop()


@needs_browser
@pytest.mark.parametrize("damage", ["gone", "cut", "of another", "of another page"])
def test_a_damaged_piece_is_named_and_the_rest_still_opens(browser, page, tmp_path, damage):
    copy = shutil.copytree(page, tmp_path / "page")
    piece = copy / "data" / "channels.js"
    if damage == "gone":
        piece.unlink()
    else:
        text, version = piece.read_text(), version_in(copy)
        assert version in text
        changed = {"cut": text[:200], "of another": (copy / "data" / "images.js").read_text()}
        piece.write_text(changed.get(damage, text.replace(version, "0" * 16)))
    browser.open((copy / "index.html").as_uri(), "#map")
    browser.go("#channel/0")
    of_another = "belongs to another version of this page; reload the page"
    assert f"data/channels.js {of_another if damage == 'of another page' else 'is missing or damaged'}" in browser.text()
    browser.go("#image/0")
    assert "Image 0" in browser.text()


def test_nothing_in_the_static_files_names_another_place():
    for file in Path(explorer.__file__).parent.glob("static/*"):
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w+|@import|eval\(|innerHTML|document\.write", text), file.name


def test_the_page_forbids_what_it_does_not_need():
    text = (Path(explorer.__file__).parent / "static" / "index.html").read_text()
    assert "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'" in text


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_values_in_steps_are_off_by_half_a_step_at_most(kind):
    values = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32) * 10.0 ** np.arange(-3, 4)
    values[:, 2] = 4
    steps = pieces.in_steps(values, kind)
    back = steps.low + steps.step * steps.numbers.astype(np.float64)
    assert (abs(back - values) <= 0.51 * steps.step + 1e-6 * abs(values)).all()
    np.testing.assert_allclose(back[:, 2], 4)


def test_names_cannot_end_the_script_that_carries_them(tmp_path):
    pieces.write_piece(tmp_path, "names", ["</script>\u2028", '"'], "v")
    text = (tmp_path / "names.js").read_text()
    assert "</" not in text and "\u2028" not in text
    assert json.loads(text[text.index('"v", ') + 5 : -3].replace("<\\/", "</")) == ["</script>\u2028", '"']


@pytest.mark.parametrize(("field", "value"), [("labels", np.zeros(3, int)), ("layouts", {}), ("names", ("a",)), ("sigmas", (0.0,))])
def test_arrays_that_do_not_fit_are_refused_and_named(tmp_path, field, value):
    with pytest.raises(InputError, match=field.replace("sigmas", "level_means")):
        explorer.write(tmp_path / "page", collection()._replace(**{field: value}))
    assert not (tmp_path / "page").exists()


def test_an_image_on_a_sheet_has_a_margin_that_repeats_its_edge(tmp_path):
    plain = np.zeros((40, 64, 64, 3), np.uint8)
    plain[::2] = 255  # black and white in turn
    found = sheets.write_sheets(tmp_path / "sheet", plain)
    seen = np.asarray(Image.open(tmp_path / "sheet" / "0.jpg")).astype(int)
    for place, image in enumerate(plain):
        top, left = place // 16 * found.cell[0], place % 16 * found.cell[1]
        cell = seen[top : top + found.cell[0], left : left + found.cell[1]]
        assert abs(cell - int(image[0, 0, 0])).max() < 3, place


def test_noise_which_no_encoder_likes_goes_onto_sheets(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)
    sheets.write_sheets(tmp_path / "sheet", noise)
    assert Image.open(tmp_path / "sheet" / "0.jpg").size == (16 * 72, 3 * 72)


@pytest.mark.parametrize("change", [{"title": "other"}, {"phi": None}, {"facts": {"a": "b"}}])
def test_another_page_has_another_version(change):
    phi = collection().phi.copy()
    phi[-1, -1] += 1
    changed = collection()._replace(**{name: phi if value is None else value for name, value in change.items()})
    assert pieces.version_of(changed) != pieces.version_of(collection())


def test_other_code_gives_the_page_another_version(page, tmp_path, monkeypatch):
    static = shutil.copytree(writing.STATIC, tmp_path / "static")
    monkeypatch.setattr(writing, "STATIC", static)
    explorer.write(tmp_path / "same", collection())
    assert version_in(tmp_path / "same") == version_in(page)
    (static / "map.js").write_text((static / "map.js").read_text() + "// changed\n")
    explorer.write(tmp_path / "other", collection())
    assert version_in(tmp_path / "other") != version_in(page)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """320 crops of photographs of 64x64, with as many maps, top images and neighbours as an analysis makes, for 32 channels."""
    cache = str(tmp_path_factory.mktemp("cache"))
    crops = open_photographs("train", crops=320, image_size=64, image_channels=3, cache_dir=cache).images
    rng, found = np.random.default_rng(0), collection()
    few = np.arange(320) % IMAGES
    clustering = found.clusterings[0]._replace(assignment=found.clusterings[0].assignment[few], distance=rng.random(320))
    return found._replace(
        images=crops,
        names=[f"photographs/{i}.png" for i in range(320)],
        labels=found.labels[few],
        phi=rng.gamma(1.0, size=(320, 32)).astype(np.float32),
        image_numbers={"participation ratio of phi": rng.random(320)},
        channels=explorer.Channels(
            numbers={"selectivity": rng.random(32)},
            groups={"specialised": np.arange(32) < 9},
            threshold=np.ones(32),
            level_means=rng.random((3, 32)),
            level_correlations=rng.random((3, 32)),
            companions=rng.integers(0, 32, (32, 10)),
            companion_correlations=rng.random((32, 10)),
        ),
        layouts={name: rng.random((320, 2)) for name in ("t-SNE", "components")},
        top=explorer.TopImages(rng.integers(0, 320, (32, 10)), rng.random((32, 10, 8, 8))),
        fires=explorer.Fires("all", rng.integers(0, 32, (320, 8)), rng.random((320, 8)), rng.random((320, 8, 8, 8))),
        neighbours={space: rng.integers(0, 320, (320, 10)) for space in ("phi, centred", "phi", "pixels")},
        clusterings=[clustering, clustering],
        reconstructions=(),
    )


def test_5000_images_and_512_channels_take_less_than_60_MB(photographs, tmp_path):
    explorer.write(tmp_path / "page", photographs)
    # What grows with both, with channels alone, and all else as if it grew with images.
    times = {"phi-images": 5000 / 320 * 512 / 32, "phi-channels": 5000 / 320 * 512 / 32, "top": 512 / 32, "channels": 512 / 32}
    total = 0
    for file in (file for file in (tmp_path / "page").rglob("*") if file.is_file()):
        total += file.stat().st_size * times.get(re.sub(r"-\d+$", "", file.stem), 5000 / 320)
    assert 30e6 < total < 60e6


@needs_browser
def test_small_pictures_come_from_small_sheets(browser, photographs, tmp_path):
    found = photographs
    explorer.write(tmp_path / "page", found)
    browser.open((tmp_path / "page" / "index.html").as_uri(), "#clusters")
    first = browser.until("document.querySelector('main .tile')")
    assert "small/" in first.get_attribute("style")
    clustering = found.clusterings[0]
    largest = np.bincount(clustering.assignment).argmax()
    members = np.flatnonzero(clustering.assignment == largest)
    central = Image.fromarray(found.images[members[clustering.distance[members].argmin()]])
    assert looks_like(browser, "main .tile", np.asarray(central.resize((40, 40), Image.Resampling.LANCZOS)))
    asked = browser.logs()[1]
    assert any("/small/" in url for url in asked) and not any("/images/" in url for url in asked)


def test_images_that_are_large_and_not_square_are_made_smaller_and_keep_their_shape(tmp_path):
    image = np.zeros((1, 300, 150, 1), np.uint8)
    image[:, :, :75] = 200
    found = sheets.write_sheets(tmp_path / "sheet", image)
    assert (found.tile, found.cell, found.margin) == ((128, 64), (136, 72), 4)
    assert sheets.write_sheets(tmp_path / "odd", image[:, :9, :7]).cell == (24, 16)
    seen = np.asarray(Image.open(tmp_path / "sheet" / "0.jpg").convert("L"))
    assert abs(seen[:, : 4 + 31].astype(int) - 200).max() < 4 and seen[:, 4 + 34 :].max() < 4


def test_the_same_collection_gives_the_same_bytes(page, tmp_path):
    explorer.write(tmp_path / "again", collection())
    for file in (path for path in page.rglob("*") if path.is_file()):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(page)).read_bytes(), file.name
