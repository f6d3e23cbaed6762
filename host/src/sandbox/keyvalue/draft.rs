//! `wasi:keyvalue@0.2.0-draft`, as wasmtime and wasmCloud have it.

use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};

use super::super::guest::Guest;
use super::super::reach::KeyPage;
use super::{Bucket, Problem};

use self::wit::wasi::keyvalue0_2_0_draft::{atomics, batch, store};

mod wit {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasi:keyvalue/imports@0.2.0-draft",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store@0.2.0-draft.bucket": crate::sandbox::keyvalue::Bucket },
        trappable_error_type: { "wasi:keyvalue/store@0.2.0-draft.error" => super::Problem },
    });
}

pub(super) const VERSION: &str = "0.2.0-draft";

pub(super) fn store(linker: &mut Linker<Guest>) -> Result<()> {
    store::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

pub(super) fn atomics(linker: &mut Linker<Guest>) -> Result<()> {
    atomics::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

pub(super) fn batch(linker: &mut Linker<Guest>) -> Result<()> {
    batch::add_to_linker::<Guest, HasSelf<Guest>>(linker, |guest| guest)
}

type Answer<T> = std::result::Result<T, Problem>;

impl store::Host for Guest {
    async fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        self.open_bucket(&identifier)
    }

    fn convert_error(&mut self, problem: Problem) -> Result<store::Error> {
        match problem {
            Problem::NoSuchStore => Ok(store::Error::NoSuchStore),
            Problem::Denied => Ok(store::Error::AccessDenied),
            Problem::Other(why) => Ok(store::Error::Other(why)),
            Problem::Broken(error) => Err(error),
        }
    }
}

impl store::HostBucket for Guest {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        self.operation(&bucket).await?.get(&key).await
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        self.operation(&bucket).await?.set(&key, &value).await
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        self.operation(&bucket).await?.delete(&key).await
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        self.operation(&bucket).await?.exists(&key).await
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Answer<store::KeyResponse> {
        let KeyPage { keys, cursor } = self.operation(&bucket).await?.list(cursor).await?;
        Ok(store::KeyResponse { keys, cursor })
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.drop_bucket(bucket)
    }
}

impl atomics::Host for Guest {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64> {
        let most =
            || Problem::Other(format!("a delta of {delta}: {} at most is allowed", i64::MAX));
        let delta = i64::try_from(delta).map_err(|_| most())?;
        let sum = self.operation(&bucket).await?.increment(&key, delta).await?;
        let below = || Problem::Other(format!("the sum is {sum}, which this draft cannot tell"));
        u64::try_from(sum).map_err(|_| below())
    }
}

impl batch::Host for Guest {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let values = self.operation(&bucket).await?.get_many(&keys).await?;
        let pair = |(key, value): (String, Option<Vec<u8>>)| value.map(|value| (key, value));
        Ok(keys.into_iter().zip(values).map(pair).collect())
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Answer<()> {
        self.operation(&bucket).await?.set_many(pairs).await
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        self.operation(&bucket).await?.delete_many(&keys).await
    }
}
