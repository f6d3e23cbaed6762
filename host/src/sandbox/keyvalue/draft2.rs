//! `wasi:keyvalue@0.2.0-draft2`, as Spin has it: with compare-and-swap.

use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};

use super::super::guest::Guest;
use super::super::reach::KeyPage;
use super::swap::{Cas, Swapped};
use super::{Bucket, Problem};

use self::wit::wasi::keyvalue0_2_0_draft2::{atomics, batch, store};

mod wit {
    #![allow(missing_docs, unreachable_pub)]
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "wasi:keyvalue/imports@0.2.0-draft2",
        imports: { default: async | trappable },
        with: {
            "wasi:keyvalue/store@0.2.0-draft2.bucket": crate::sandbox::keyvalue::Bucket,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas": crate::sandbox::keyvalue::swap::Cas,
        },
        trappable_error_type: {
            "wasi:keyvalue/store@0.2.0-draft2.error" => super::Problem,
            "wasi:keyvalue/atomics@0.2.0-draft2.cas-error" => super::SwapProblem,
        },
    });
}

pub(super) const VERSION: &str = "0.2.0-draft2";

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

/// Why a swap was not made.
#[allow(unreachable_pub, reason = "what is generated names it in public")]
pub enum SwapProblem {
    Store(Problem),
    Missed(Resource<Cas>),
}

impl From<Problem> for SwapProblem {
    fn from(problem: Problem) -> Self {
        Self::Store(problem)
    }
}

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
        cursor: Option<String>,
    ) -> Answer<store::KeyResponse> {
        let number = |cursor: String| {
            let foreign = || Problem::Other("the cursor is of no page that was listed".to_owned());
            cursor.parse::<u64>().map_err(|_| foreign())
        };
        let cursor = cursor.map(number).transpose()?;
        let KeyPage { keys, cursor } = self.operation(&bucket).await?.list(cursor).await?;
        Ok(store::KeyResponse { keys, cursor: cursor.map(|cursor| cursor.to_string()) })
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
        delta: i64,
    ) -> Answer<i64> {
        self.operation(&bucket).await?.increment(&key, delta).await
    }

    async fn swap(
        &mut self,
        cas: Resource<Cas>,
        value: Vec<u8>,
    ) -> std::result::Result<(), SwapProblem> {
        match Guest::swap(self, cas, &value).await? {
            Swapped::Done => Ok(()),
            Swapped::Missed(cas) => Err(SwapProblem::Missed(cas)),
        }
    }

    fn convert_cas_error(&mut self, problem: SwapProblem) -> Result<atomics::CasError> {
        match problem {
            SwapProblem::Store(problem) => {
                store::Host::convert_error(self, problem).map(atomics::CasError::StoreError)
            }
            SwapProblem::Missed(cas) => Ok(atomics::CasError::CasFailed(cas)),
        }
    }
}

impl atomics::HostCas for Guest {
    async fn new(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Resource<Cas>> {
        self.cas_of(&bucket, key).await
    }

    async fn current(&mut self, cas: Resource<Cas>) -> Answer<Option<Vec<u8>>> {
        self.cas_value(&cas)
    }

    async fn drop(&mut self, cas: Resource<Cas>) -> Result<()> {
        match self.forget(cas) {
            Err(Problem::Broken(error)) => Err(error),
            Ok(_) | Err(Problem::NoSuchStore | Problem::Denied | Problem::Other(_)) => Ok(()),
        }
    }
}

impl batch::Host for Guest {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<(String, Option<Vec<u8>>)>> {
        let values = self.operation(&bucket).await?.get_many(&keys).await?;
        Ok(keys.into_iter().zip(values).collect())
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
