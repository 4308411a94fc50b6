#include "hsm/set_marker.h"

#include <fmt/format.h>

#include <vector>

#include "hsm/objects.h"

namespace sealift::hsm {
namespace {

std::string MarkerLabel(std::string_view set) { return fmt::format("sealift:{}:unfinished", set); }

TokenView View(SessionPool& pool, const SessionPool::Lease& lease) {
  return {.api = &pool.api(), .session = lease.handle(), .token = pool.Name()};
}

Result<std::vector<CK_OBJECT_HANDLE>> FindMarkers(const TokenView& view, std::string_view set) {
  return FindObjects(view, Template()
                               .Number(CKA_CLASS, CKO_DATA)
                               .Flag(CKA_TOKEN, true)
                               .Data(CKA_LABEL, AsBytes(MarkerLabel(set))));
}

}  // namespace

Result<bool> HasSetMarker(SessionPool& pool, std::string_view set) {
  bool found = false;
  SEALIFT_RETURN_IF_ERROR(pool.Run([&](const SessionPool::Lease& lease) -> Status {
    const TokenView view = View(pool, lease);
    SEALIFT_ASSIGN_OR_RETURN(const auto markers, FindMarkers(view, set));
    found = !markers.empty();
    return found ? OkStatus() : CheckLoggedIn(view);
  }));
  return found;
}

Result<bool> PlaceSetMarker(SessionPool& pool, std::string_view set) {
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool.AcquireReadWrite());
  const TokenView view = View(pool, lease);
  SEALIFT_ASSIGN_OR_RETURN(const auto markers, FindMarkers(view, set));
  if (!markers.empty()) return true;
  Template wanted;
  wanted.Number(CKA_CLASS, CKO_DATA)
      .Flag(CKA_TOKEN, true)
      .Flag(CKA_PRIVATE, true)
      .Data(CKA_APPLICATION, AsBytes("sealift"))
      .Data(CKA_LABEL, AsBytes(MarkerLabel(set)))
      .Data(CKA_VALUE, AsBytes("keys of this set belong to no inventory yet"));
  CK_OBJECT_HANDLE marker = CK_INVALID_HANDLE;
  const CK_RV rv = view.api->C_CreateObject(view.session, wanted.data(), wanted.size(), &marker);
  if (rv == CKR_OK) return true;
  const Status error = CannotMake(rv, fmt::format("mark {}", view.token), "C_CreateObject");
  if (ReasonOf(error) == Reason::kHsmTokenFull || LossOf(error) != Loss::kNone) return error;
  return false;
}

Status RemoveSetMarker(SessionPool& pool, std::string_view set) {
  SEALIFT_ASSIGN_OR_RETURN(const SessionPool::Lease lease, pool.AcquireReadWrite());
  const TokenView view = View(pool, lease);
  SEALIFT_ASSIGN_OR_RETURN(const auto markers, FindMarkers(view, set));
  for (const CK_OBJECT_HANDLE marker : markers) {
    const CK_RV rv = view.api->C_DestroyObject(view.session, marker);
    if (rv != CKR_OK) return Pkcs11Error(rv, fmt::format("unmark {}", view.token), "C_DestroyObject");
  }
  return OkStatus();
}

}  // namespace sealift::hsm
