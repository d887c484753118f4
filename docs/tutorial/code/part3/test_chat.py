from fast_channels.testing import WebsocketCommunicator

from main import app


async def test_a_message_reaches_everybody_in_the_room():
    ada = WebsocketCommunicator(app, "/ws/tea?name=Ada")
    bob = WebsocketCommunicator(app, "/ws/tea?name=Bob")
    async with ada, bob:
        assert await ada.connect() == (True, None)
        assert await ada.receive_json_from() == {"notice": "Ada came in"}
        assert await bob.connect() == (True, None)
        assert await ada.receive_json_from() == {"notice": "Bob came in"}
        assert await bob.receive_json_from() == {"notice": "Bob came in"}

        await ada.send_json_to({"text": "Hello"})
        assert await ada.receive_json_from() == {"name": "Ada", "text": "Hello"}
        assert await bob.receive_json_from() == {"name": "Ada", "text": "Hello"}

        await bob.disconnect()
        assert await ada.receive_json_from() == {"notice": "Bob left"}


async def test_a_message_stays_in_its_room():
    ada = WebsocketCommunicator(app, "/ws/tea?name=Ada")
    eve = WebsocketCommunicator(app, "/ws/coffee?name=Eve")
    async with ada, eve:
        await ada.connect()
        await eve.connect()
        assert await eve.receive_json_from() == {"notice": "Eve came in"}
        await ada.send_json_to({"text": "Hello"})
        assert await eve.receive_nothing()


async def test_there_is_no_room_with_a_bad_name(layers):
    async with WebsocketCommunicator(app, "/ws/Tea%20Room?name=Ada") as ada:
        assert await ada.connect() == (False, 404)
    assert layers["chat"].groups == {}
