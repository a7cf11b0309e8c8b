//! Services and endpoints as the catalogue has them.

use mesh::model::{EndpointState, Namespace, ServiceName};
use proto::admin::v1 as pb;

use super::{Admin, exports};
use crate::api::{Error, outward::field};

impl Admin {
    pub(crate) async fn list_services(&self, request: pb::ListServicesRequest) -> Result<pb::ServiceList, Error> {
        let namespace: Option<Namespace> = match request.namespace.as_str() {
            "" => None,
            text => Some(field("namespace", text.parse())?),
        };
        let reading = self.read(request.read).await?;
        let state = &reading.state;
        let services = state
            .services()
            .filter(|service| namespace.as_ref().is_none_or(|it| it == service.name.namespace()));
        let row = |service: mesh::model::Service| {
            let (mut endpoints, mut ready) = (0, 0);
            for endpoint in state.endpoints(&service.name) {
                endpoints += 1;
                ready += u32::from(endpoint.state == EndpointState::Ready);
            }
            pb::ServiceRow {
                export: state.export(&service.name).map(|export| exports::outward(export)),
                endpoints,
                ready,
                service: Some(service.into()),
            }
        };
        Ok(pb::ServiceList {
            services: services.map(row).collect(),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn list_endpoints(&self, request: pb::ListEndpointsRequest) -> Result<pb::EndpointList, Error> {
        let service: ServiceName = field("service", request.service.parse())?;
        let reading = self.read(request.read).await?;
        let endpoints: Vec<_> = reading
            .state
            .endpoints(&service)
            .map(|endpoint| endpoint.as_ref().into())
            .collect();
        if endpoints.is_empty() && reading.state.service(&service).is_none() {
            return Err(Error::NotFound {
                what: "service",
                id: service.to_string(),
                hint: "isthmus services lists them",
            });
        }
        Ok(pb::EndpointList {
            endpoints,
            position: Some(reading.position),
        })
    }
}
