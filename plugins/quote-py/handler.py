"""Answers each message that names a `sku` with its price: a remembered one, or else the quote service's."""

import os
from urllib.parse import quote, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import atomics, outgoing_handler, store
from wit_world.imports import wasi_http_types as http
from wit_world.imports.store import Bucket
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.tidegate_plugin_types import (
    Entry, Failure_Reject, Failure_Retry, Field, Message, Output, Output_Append,
)

# A price is short; what is longer is not read.
PRICE_BYTES = 100

# How long the service may take to answer, in nanoseconds.
PATIENCE = 5_000_000_000


class Handler(exports.Handler):
    def handle(self, message: Message) -> list[Output]:
        sku = sku_of(message)
        try:
            # The bucket with no name is the keys that the manifest's `keyvalue` grants.
            with store.open("") as bucket:
                source, price = look_up(bucket, sku)
        except Err as error:
            # What a handler raises as an `Err` is its answer; this one is the store's.
            if isinstance(error.value, store.Error):
                raise Err(Failure_Retry(f"the store failed: {error.value}")) from None
            raise
        fields = {"sku": sku, "price": price, "source": source}
        return [Output_Append(Entry("quotes", [Field(n, v.encode()) for n, v in fields.items()], None))]


def sku_of(message: Message) -> str:
    for field in message.fields:
        if field.name == "sku":
            return field.value.decode(errors="replace")
    raise Err(Failure_Reject("the message has no field `sku`"))


def look_up(bucket: Bucket, sku: str) -> tuple[str, str]:
    key = f"price:{sku}"
    remembered = bucket.get(key)
    if remembered is not None:
        return "memory", remembered.decode()
    price = ask(sku)
    bucket.set(key, price.encode())
    atomics.increment(bucket, "asked", 1)
    return "service", price


def ask(sku: str) -> str:
    """Asks the service whose address the manifest's `env` gives as QUOTES."""
    service = urlsplit(os.environ["QUOTES"])
    request = http.OutgoingRequest(http.Fields())
    request.set_scheme(http.Scheme_Https() if service.scheme == "https" else http.Scheme_Http())
    request.set_authority(service.netloc)
    request.set_path_with_query(f"{service.path.rstrip('/')}/{quote(sku, safe='')}")
    options = http.RequestOptions()
    options.set_connect_timeout(PATIENCE)
    options.set_first_byte_timeout(PATIENCE)
    try:
        with outgoing_handler.handle(request, options) as future:
            return answer(future)
    except Err as error:
        if isinstance(error.value, http.ErrorCode):
            raise Err(Failure_Retry(f"the quote service cannot be reached: {error.value}")) from None
        raise


def answer(future: http.FutureIncomingResponse) -> str:
    with future.subscribe() as ready:
        ready.block()
    match future.get():
        case Ok(Ok(response)):
            with response:
                if response.status() == 404:
                    raise Err(Failure_Reject("the quote service does not know this `sku`"))
                if response.status() != 200:
                    raise Err(Failure_Retry(f"the quote service answered {response.status()}"))
                return text(response)
        case Ok(Err(code)):
            raise Err(code)


def text(response: http.IncomingResponse) -> str:
    read = b""
    with response.consume() as body, body.stream() as stream:
        try:
            while len(read) < PRICE_BYTES:
                read += stream.blocking_read(PRICE_BYTES - len(read))
        except Err as error:
            if not isinstance(error.value, StreamError_Closed):
                raise Err(Failure_Retry("the quote service broke off its answer")) from None
    return read.decode()
