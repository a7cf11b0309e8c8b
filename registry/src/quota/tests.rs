mod lessor;
mod proxies;
mod regions;
