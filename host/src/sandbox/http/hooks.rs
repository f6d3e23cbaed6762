//! What one instance has of `wasi:http`, and where its requests are handed to the handler's client.

use std::sync::Arc;

use futures_util::FutureExt;
use http::{Request, Response};
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use super::Client;

/// Bytes of names and values in one set of headers that a guest makes, with what it takes to hold them.
const HEADERS_MAX: usize = 32 << 10;

/// Bytes of one write to a body. Two of them may wait for the network, in each body that a guest holds.
const WRITE_MAX: usize = 16 << 10;

type Later<T> = Box<dyn Future<Output = Result<T, Error>> + Send>;

/// The part of an instance that calls out.
pub(in super::super) struct Http {
    context: WasiHttpCtx,
    hooks: Hooks,
}

impl Http {
    pub(in super::super) fn new(client: Arc<Client>) -> Self {
        let mut context = WasiHttpCtx::new();
        context.set_field_size_limit(HEADERS_MAX);
        Self { context, hooks: Hooks(client) }
    }

    pub(in super::super) fn view<'a>(
        &'a mut self,
        table: &'a mut ResourceTable,
    ) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { hooks: &mut self.hooks, table, ctx: &mut self.context }
    }
}

struct Hooks(Arc<Client>);

impl WasiHttpHooks for Hooks {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _read: Later<()>,
    ) -> Later<(Response<WasiBody>, Later<()>)> {
        let client = self.0.clone();
        Box::new(async move {
            let (response, rest) = client.send(request, options.unwrap_or_default()).await?;
            Ok((response, Box::new(rest.map(Ok)) as Later<()>))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_MAX
    }
}
