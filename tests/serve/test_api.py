"""Every route over twelve photos whose neighbours can be worked out by hand: what it answers, and what it says when something is wrong."""

import io
import json
import time

import pytest
from PIL import Image
from served import BLUE, RED, detail, names, photo

from simclr.embed import Index

# ---- search


def test_an_id_finds_what_the_index_finds(client, index, id_of):
    hits = client.post("/search", json={"id": id_of("red_dark"), "k": 5}).json()["hits"]
    expected = Index.open(index).search([id_of("red_dark")], k=5)[0]
    assert [(hit["id"], hit["path"], hit["similarity"]) for hit in hits] == [
        (hit.id, hit.path, round(hit.similarity, 6)) for hit in expected
    ]
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert {(hit["width"], hit["height"]) for hit in hits} == {(48, 32)}


def test_ten_hits_are_given_unless_another_number_is_asked_for(client, id_of):
    assert len(names(client.post("/search", json={"id": id_of("red_dark")}))) == 10


def test_an_upload_finds_images_of_its_colour(client):
    answer = client.post("/search", files={"file": ("x.png", photo(BLUE))}, data={"k": "2"})
    assert sorted(names(answer)) == ["blue_dark", "blue_light"]


def test_an_upload_is_searched_as_its_file_is(client, index, photos):
    path = photos / "warm/orange_light.png"
    answer = client.post("/search", files={"file": path.read_bytes()}, data={"k": 12})
    expected = Index.open(index).search(path, k=12)[0]
    assert [hit["id"] for hit in answer.json()["hits"]] == [hit.id for hit in expected]


def test_an_id_and_an_upload_are_looked_for_as_one(client, index, photos, id_of):
    path = photos / "cold/green_dark.png"
    answer = client.post(
        "/search", files={"file": path.read_bytes()}, data={"id": id_of("red_dark"), "k": 12}
    )
    expected = Index.open(index).search_like([id_of("red_dark"), path], k=12)
    assert [hit["id"] for hit in answer.json()["hits"]] == [hit.id for hit in expected]


def test_examples_against_are_taken_off(client, index, id_of):
    like, unlike = [id_of("red_dark"), id_of("blue_dark")], [id_of("purple_dark")]
    hits = client.post("/search", json={"like": like, "unlike": unlike, "k": 12}).json()["hits"]
    expected = Index.open(index).search_like(like, unlike, k=12)
    assert [(hit["id"], hit["similarity"]) for hit in hits] == [
        (hit.id, round(hit.similarity, 6)) for hit in expected
    ]


def test_an_upload_can_be_an_example_against(client, id_of, photos):
    files = {"unlike_file": (photos / "warm/red_light.png").read_bytes()}
    answer = client.post("/search", files=files, data={"like": [id_of("purple_light")], "k": 12})
    by_id = {"like": [id_of("purple_light")], "unlike": [id_of("red_light")], "k": 12}
    assert names(answer) == names(client.post("/search", json=by_id))


def test_the_images_asked_for_can_be_left_out(client, id_of):
    ask = {"like": [id_of("red_dark")], "unlike": [id_of("blue_dark")], "k": 12, "exclude_self": True}
    found = names(client.post("/search", json=ask))
    assert len(found) == 10 and not {"red_dark", "blue_dark"} & set(found)


def test_only_images_that_meet_the_condition_are_found(client, id_of):
    ask = {"id": id_of("red_dark"), "where": "path like '%blue%'"}
    assert sorted(names(client.post("/search", json=ask))) == ["blue_dark", "blue_light"]


def test_without_a_classifier_nothing_is_predicted(client, id_of):
    found = client.post("/search", json={"id": id_of("red_dark"), "classes": True}).json()
    assert found["predicted"] is None and found["hits"][0]["predicted"] is None


def test_with_a_classifier_query_and_hits_have_their_class(client_of, classifier, id_of):
    client = client_of(classifier=classifier)
    found = client.post("/search", json={"id": id_of("red_dark"), "k": 12, "classes": True}).json()
    assert found["predicted"]["label"] == "warm"
    for hit in found["hits"]:
        assert f"/{hit['predicted']['label']}/" in hit["path"]


def test_hits_have_no_class_unless_it_is_asked_for(client_of, classifier, id_of):
    found = client_of(classifier=classifier).post("/search", json={"id": id_of("red_dark")}).json()
    assert found["hits"][0]["predicted"] is None


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        ({}, 422, "no image to look for. Give a file, or the id of an image of the collection."),
        ({"unlike": [1]}, 422, "no image to look for."),
        ({"id": 99}, 404, "the collection has no image with the id 99."),
        ({"id": "1"}, 422, "id: Input should be a valid integer."),
        ({"id": True}, 422, "id: Input should be a valid integer."),
        ({"id": -1}, 422, "id: Input should be greater than or equal to 0."),
        ({"id": 1 << 63}, 422, "id: Input should be less than or equal to 9223372036854775807."),
        ({"id": 1, "k": 0}, 422, "k: Input should be greater than or equal to 1."),
        ({"id": 1, "k": 1001}, 422, "k: Input should be less than or equal to 1000."),
        ({"id": 1, "whre": "x"}, 422, "whre: Extra inputs are not permitted."),
        ({"like": list(range(12)) * 2}, 422, "24 images to look for at once, more than 16."),
        ({"id": 1, "where": "colour = 1"}, 422, "where 'colour = 1': no such column: colour."),
        ({"id": 1, "where": "1; drop table images"}, 422, "where "),
        ({"id": 1, "where": "\ud800"}, 422, "Invalid JSON: "),
        ([1], 422, "Input should be an object."),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_in_a_sentence(client, ask, status, words):
    body = json.dumps(ask)
    answer = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert detail(answer).startswith(words)


@pytest.mark.parametrize(
    ("files", "status", "words"),
    [
        ({"file": b""}, 422, "the file is empty."),
        ({"file": b"<html>"}, 415, "the file is not an image of a known format."),
        ({"file": photo((1, 2, 3))[:60]}, 422, "the image cannot be read: damaged PNG"),
        ({"fiel": photo((1, 2, 3))}, 422, "fiel: is no file. The name for an image is: file"),
    ],
)
def test_an_upload_that_is_no_image_is_refused_in_a_sentence(client, files, status, words):
    answer = client.post("/search", files=files)
    assert answer.status_code == status
    assert detail(answer).startswith(words)


def test_a_file_given_as_text_is_refused(client):
    body = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'
    answer = client.post("/search", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 422
    assert detail(answer) == "file: no file. Send it as one: curl -F file=@photo.jpg"


def test_an_image_with_too_many_pixels_is_refused(client_of):
    from simclr.serve.limits import Limits

    client = client_of(limits=Limits(upload_pixels=10_000))
    answer = client.post("/search", files={"file": photo((1, 2, 3), size=(101, 100))})
    assert answer.status_code == 413
    assert (
        detail(answer)
        == "the image is too large: 101x100 is above the limit of 10,000 pixels. Send a smaller one."
    )


def test_another_content_type_is_refused(client):
    answer = client.post("/search", content=b"x", headers={"content-type": "image/png"})
    assert answer.status_code == 415
    assert detail(answer).startswith("content type 'image/png'.")


def test_many_searches_at_once_are_answered_each_with_its_own(client, index):
    """Together in one call of FAISS, with different numbers of hits and conditions."""
    from concurrent.futures import ThreadPoolExecutor

    opened = Index.open(index)
    ids = opened.lookup.ids.tolist() * 4
    with ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(
                lambda pair: client.post("/search", json={"id": pair[1], "k": 1 + pair[0] % 12}),
                enumerate(ids),
            )
        )
    for place, (id, answer) in enumerate(zip(ids, answers, strict=True)):
        expected = opened.search([id], k=1 + place % 12)[0]
        assert [hit["id"] for hit in answer.json()["hits"]] == [hit.id for hit in expected]


# ---- classify


def test_others_are_answered_while_a_classifier_takes_its_time(client_of, classifier, id_of, monkeypatch):
    """What it makes of many hits, of an image, and of one's details."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event

    from simclr.classify.classifier import Classifier

    client, go, predict = client_of(classifier=classifier), Event(), Classifier.predict

    def slowly(self, vectors):
        assert go.wait(30)
        return predict(self, vectors)

    monkeypatch.setattr(Classifier, "predict", slowly)
    id = id_of("red_dark")
    asks = [
        lambda: client.post("/search", json={"id": id, "classes": True}),
        lambda: client.post("/classify", json={"id": id}),
        lambda: client.get(f"/images/{id}/details"),
    ]
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(ask) for ask in asks]
        time.sleep(0.2)
        assert client.get("/healthz").status_code == 200
        assert not any(each.done() for each in waiting)
        go.set()
        assert [each.result().status_code for each in waiting] == [200, 200, 200]


def test_classes_of_an_upload_come_with_their_probabilities(client_of, classifier):
    found = client_of(classifier=classifier).post("/classify", files={"file": photo(BLUE)}).json()
    assert [share["label"] for share in found["classes"]] == ["cold", "warm"]
    assert sum(share["probability"] for share in found["classes"]) == pytest.approx(1, abs=1e-5)
    assert 0 <= found["unlike"] <= 1


def test_an_image_of_the_collection_is_classified_as_its_details_say(client_of, classifier, id_of):
    client = client_of(classifier=classifier)
    found = client.post("/classify", json={"id": id_of("red_light")}).json()
    assert found["classes"][0]["label"] == "warm"
    assert client.get(f"/images/{id_of('red_light')}/details").json()["classes"] == found["classes"]


def test_without_a_classifier_classify_says_how_to_give_one(client):
    answer = client.post("/classify", json={"id": 1})
    assert answer.status_code == 404
    assert detail(answer) == "the server was started without a classifier. Give one with --classifier."


def test_two_images_are_not_classified_at_once(client_of, classifier):
    files = [("file", photo(BLUE)), ("file", photo(RED))]
    answer = client_of(classifier=classifier).post("/classify", files=files)
    assert answer.status_code == 422


# ---- images


def test_the_listing_goes_on_where_the_last_one_ended(client, index):
    ids = Index.open(index).lookup.ids.tolist()
    found = [client.get("/images", params={"limit": 5, "offset": at}).json() for at in (0, 5, 10)]
    assert [image["id"] for part in found for image in part["images"]] == ids
    assert {part["total"] for part in found} == {12}


def test_a_seed_shuffles_the_listing_the_same_way_each_time(client, index):
    ids = Index.open(index).lookup.ids.tolist()
    one, again, other = (
        [image["id"] for image in client.get("/images", params={"seed": seed}).json()["images"]]
        for seed in (1, 1, 2)
    )
    assert one == again and sorted(one) == ids and one != ids and one != other


def test_a_listing_by_condition_says_how_many_there_are(client):
    answer = client.get("/images", params={"where": "path like '%dark%'", "limit": 2})
    assert answer.json()["total"] == 6 and len(answer.json()["images"]) == 2


def test_an_image_is_its_file(client, photos, id_of):
    answer = client.get(f"/images/{id_of('red_dark')}")
    assert answer.content == (photos / "warm/red_dark.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"


def test_an_image_that_browsers_do_not_show_comes_as_jpeg(own, client_of, id_of):
    photos, client = own[0], client_of(own[1])
    Image.new("RGB", (48, 32), RED).save(photos / "warm/red_dark.png", "TIFF")
    answer = client.get(f"/images/{id_of('red_dark')}")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (48, 32)


def test_a_browser_that_has_the_image_is_told_so(client, id_of):
    url = f"/images/{id_of('red_dark')}"
    tag = client.get(url).headers["etag"]
    again = client.get(url, headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_thumbnail_fits_its_size_and_keeps_the_proportions(own, client_of, id_of):
    photos, client = own[0], client_of(own[1])
    Image.new("RGB", (1000, 500), RED).save(photos / "warm/red_dark.png")
    answer = client.get(f"/thumbnails/{id_of('red_dark')}", params={"size": 128})
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (128, 64))


def test_a_thumbnail_is_made_once(own, client_of, id_of):
    photos, client = own[0], client_of(own[1])
    url = f"/thumbnails/{id_of('red_dark')}"
    first = client.get(url)
    (photos / "warm/red_dark.png").unlink()
    assert client.get(url).content == first.content


def test_a_thumbnail_has_one_of_three_sizes(client, id_of):
    answer = client.get(f"/thumbnails/{id_of('red_dark')}", params={"size": 5000})
    assert answer.status_code == 422
    assert detail(answer) == "size 5000: use one of 128, 256, 512."


def test_an_image_that_is_gone_is_said_to_be(own, client_of, id_of):
    photos, client = own[0], client_of(own[1])
    (photos / "warm/red_dark.png").unlink()
    for url in (f"/images/{id_of('red_dark')}", f"/thumbnails/{id_of('red_dark')}"):
        answer = client.get(url)
        assert answer.status_code == 404
        assert "Run `simclr embed` again" in detail(answer) and str(photos) not in detail(answer)


def test_a_file_that_is_no_image_any_more_is_not_given_out(own, client_of, id_of):
    photos, client = own[0], client_of(own[1])
    (photos / "warm/red_dark.png").write_text("root:x:0:0")
    answer = client.get(f"/images/{id_of('red_dark')}")
    assert answer.status_code == 404 and "root" not in answer.text


def test_details_are_those_of_the_store(client, photos, id_of):
    found = client.get(f"/images/{id_of('red_dark')}/details").json()
    path = photos / "warm/red_dark.png"
    assert (found["path"], found["size"]) == (str(path), path.stat().st_size)
    assert (found["width"], found["height"], len(found["content_hash"])) == (48, 32, 64)
    assert found["modified"].startswith("20") and found["modified"].endswith("+00:00")


@pytest.mark.parametrize("id", ["99", "9223372036854775807"])
@pytest.mark.parametrize("url", ["/images/{}", "/images/{}/details", "/thumbnails/{}"])
def test_an_unknown_id_is_not_found(client, url, id):
    assert client.get(url.format(id)).status_code == 404


@pytest.mark.parametrize(
    "id", ["-1", "9223372036854775808", "1e3", "abc", "0x1", "٣", "..%2f..%2fetc%2fpasswd", "1%00", "%ff"]
)
@pytest.mark.parametrize("url", ["/images/{}", "/images/{}/details", "/thumbnails/{}"])
def test_what_is_no_id_is_refused(client, url, id):
    answer = client.get(url.format(id))
    assert answer.status_code in (404, 422) and detail(answer)


# ---- the rest


def test_the_collection_says_what_is_served(client_of, classifier):
    found = client_of(classifier=classifier).get("/collection").json()
    assert (found["name"], found["images"], found["width"]) == ("out", 12, 12)
    assert found["classes"] == ["cold", "warm"] and "width" in found["columns"]
    assert found["index"] == "IDMap2,Flat" and found["recall"] == 1.0 and not found["stale"]


def wait_for(client, url):
    deadline = time.monotonic() + 60
    while (answer := client.get(url)).status_code == 202:
        assert answer.headers["retry-after"] == "1" and answer.json()["doing"]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def test_the_map_puts_like_images_near_each_other(client_of, classifier, index):
    found = wait_for(client_of(classifier=classifier), "/map").json()
    assert found["ids"] == Index.open(index).lookup.ids.tolist()
    assert (found["images"], found["classes"], len(found["labels"])) == (12, ["cold", "warm"], 12)
    for values in (found["x"], found["y"]):
        assert len(values) == 12 and min(values) >= 0 and max(values) <= 1


def test_plain_images_are_no_copies_of_one_another(client):
    found = wait_for(client, "/copies").json()
    assert (found["groups"], found["total"], found["threshold"]) == ([], 0, 0.96)


def test_copies_that_cannot_be_found_are_refused_with_the_reason(client_of, own):
    photos, index = own
    photos.rename(photos.with_name("elsewhere"))
    answer = wait_for(client_of(index), "/copies")
    assert answer.status_code == 422 and "of 12 images that would be compared" in detail(answer)


def test_health_and_metrics_tell_of_this_collection(client, id_of):
    assert client.get("/healthz").json() == {"status": "ok", "images": 12, "generation": 1}
    client.post("/search", json={"id": id_of("red_dark")})
    client.post("/search", json={"id": 99})
    text = client.get("/metrics").text
    assert 'simclr_requests_total{route="/search",status="200"} 1.0' in text
    assert 'simclr_requests_total{route="/search",status="404"} 1.0' in text
    assert "simclr_images 12.0" in text


def test_metrics_have_one_row_for_all_paths_that_do_not_exist(client):
    for number in range(20):
        client.get(f"/{number}")
    text = client.get("/metrics").text
    assert 'simclr_requests_total{route="other",status="404"} 20.0' in text and "/7" not in text


def test_openapi_describes_every_route_with_types(client):
    found = client.get("/openapi.json").json()
    assert set(found["paths"]) == {
        "/search", "/classify", "/images", "/images/{id}", "/images/{id}/details", "/thumbnails/{id}",
        "/collection", "/map", "/copies", "/healthz", "/metrics", "/session",
    }  # fmt: skip
    search = found["paths"]["/search"]["post"]
    assert set(search["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    answer = search["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert answer == "#/components/schemas/Found"


def test_a_path_that_does_not_exist_is_said_not_to(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404 and detail(answer) == "GET here: Not Found."


def test_another_method_is_said_not_to_be_allowed(client):
    answer = client.get("/search")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"


def test_a_damaged_store_is_told_to_the_operator_and_the_client_is_asked_to_come_again(
    own, client_of, caplog, id_of
):
    client = client_of(own[1])
    for path in (own[1].with_suffix(".store") / "metadata").iterdir():
        path.write_bytes(b"damaged")
    answer = client.get(f"/images/{id_of('red_dark')}/details")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "SHA-256" in caplog.text and "SHA-256" not in detail(answer)
