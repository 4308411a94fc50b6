#include "hsm/module.h"

#include <fmt/format.h>
#include <p11-kit/p11-kit.h>

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "shared/base/log.h"

namespace sealift::hsm {
namespace {

constexpr auto kSoftHsmPlaces = std::to_array<const char*>({
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
});

Status Unusable(std::string_view what) {
  return MakeError(Code::kFailedPrecondition, Reason::kHsmModuleUnusable,
                   fmt::format("load PKCS#11 module: {}", what));
}

// How long a renewal waits for calls of other threads. A call on a dead module fails at once.
constexpr std::chrono::seconds kPatience{10};

struct Loaded {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<Module>> modules;
};
Loaded& TheLoaded() {
  static Loaded& loaded = *new Loaded;  // outlives every static destructor
  return loaded;
}

// Sets a variable for the time of one call and puts back what was there.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;
  ~ScopedEnvironment() {
    if (before_.has_value()) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }

 private:
  const char* name_;
  std::optional<std::string> before_;
};

Result<std::string> FindSoftHsm() {
  for (const char* place : kSoftHsmPlaces) {
    std::error_code ignored;
    if (std::filesystem::exists(place, ignored)) return std::string(place);
  }
  return Unusable("SoftHSM2 is not installed and the URI names no module-path");
}

Result<CK_FUNCTION_LIST*> Configured(const std::string& name) {
  CK_FUNCTION_LIST** all = p11_kit_modules_load(nullptr, 0);
  if (all == nullptr) return Unusable(p11_kit_message());
  CK_FUNCTION_LIST* found = nullptr;
  for (CK_FUNCTION_LIST** at = all; *at != nullptr; ++at) {
    char* its_name = p11_kit_module_get_name(*at);
    if (found == nullptr && its_name != nullptr && name == its_name) {
      found = *at;
    } else {
      p11_kit_module_release(*at);
    }
    std::free(its_name);
  }
  std::free(all);
  if (found == nullptr) return Unusable(fmt::format("p11-kit's configuration knows no '{}'", name));
  return found;
}

// By its file, or by `remote:` in p11-kit's configuration.
bool IsP11KitClient(CK_FUNCTION_LIST* functions, const std::string& key) {
  if (std::filesystem::path(key).filename().string().starts_with("p11-kit-client")) return true;
  char* remote = p11_kit_config_option(functions, "remote");
  const bool is_remote = remote != nullptr;
  std::free(remote);
  return is_remote;
}

Result<CK_FUNCTION_LIST*> LoadLibrary(const TokenUri& uri, const std::string& key) {
  if (uri.module_path.empty() && !uri.module_name.empty()) return Configured(uri.module_name);
  CK_FUNCTION_LIST* functions = p11_kit_module_load(key.c_str(), P11_KIT_MODULE_CRITICAL);
  if (functions == nullptr) {
    const char* why = p11_kit_message();
    return Unusable(fmt::format("'{}': {}", key, why == nullptr ? "it is no PKCS#11 module" : why));
  }
  return functions;
}

}  // namespace

std::filesystem::path SoftHsmConfig(const std::filesystem::path& store) { return store / "softhsm2.conf"; }

Result<std::shared_ptr<Module>> Module::LoadNew(const TokenUri& uri, const std::string& key) {
  std::optional<ScopedEnvironment> environment;
  if (!uri.softhsm_store.empty()) {
    const auto config = SoftHsmConfig(uri.softhsm_store);
    std::error_code ignored;
    if (!std::filesystem::exists(config, ignored)) {
      return MakeError(
          Code::kNotFound, Reason::kHsmTokenMissing,
          fmt::format("open token {}: there is no SoftHSM store at '{}'", uri.Name(), uri.softhsm_store));
    }
    environment.emplace("SOFTHSM2_CONF", config.string());
  }
  SEALIFT_ASSIGN_OR_RETURN(CK_FUNCTION_LIST * functions, LoadLibrary(uri, key));
  // p11-kit asks for CKF_OS_LOCKING_OK.
  if (const CK_RV rv = p11_kit_module_initialize(functions); rv != CKR_OK) {
    p11_kit_module_release(functions);
    return MakeError(Code::kFailedPrecondition, Reason::kHsmModuleUnusable,
                     fmt::format("load PKCS#11 module '{}'", key),
                     NativeError{.call = "C_Initialize", .code = rv, .name = RvName(rv)});
  }
  return std::shared_ptr<Module>(new Module(functions, key, uri.softhsm_store));
}

Result<std::shared_ptr<Module>> Module::Load(const TokenUri& uri) {
  std::string key = !uri.module_path.empty() ? uri.module_path : uri.module_name;
  if (key.empty()) {
    SEALIFT_ASSIGN_OR_RETURN(key, FindSoftHsm());
  }
  const std::lock_guard lock(TheLoaded().mutex);
  if (std::shared_ptr<Module> in_use = TheLoaded().modules[key].lock()) {
    if (uri.softhsm_store.empty() || uri.softhsm_store == in_use->softhsm_store()) return in_use;
    return Unusable(
        fmt::format("SoftHSM is open in this program with the store '{}' and cannot open '{}' beside it; "
                    "create both tokens with one --store",
                    in_use->softhsm_store(), uri.softhsm_store));
  }
  SEALIFT_ASSIGN_OR_RETURN(std::shared_ptr<Module> module, LoadNew(uri, key));
  TheLoaded().modules[key] = module;
  return module;
}

Module::Module(CK_FUNCTION_LIST* functions, std::string key, std::string softhsm_store)
    : functions_(functions),
      key_(std::move(key)),
      softhsm_store_(std::move(softhsm_store)),
      one_at_a_time_(IsP11KitClient(functions, key_)) {}

Module::~Module() {
  const PipeSignalHeld held;
  if (initialised_) {
    if (const CK_RV rv = p11_kit_module_finalize(functions_); rv != CKR_OK) {
      log::Warning("PKCS#11 module did not finalise", {{"path", key_}, {"error", RvName(rv)}});
    }
  }
  p11_kit_module_release(functions_);
}

Module::Use::~Use() {
  if (module_ == nullptr) return;
  // Notifies under the lock: the module may be gone as soon as it is free.
  const std::lock_guard lock(module_->mutex_);
  --module_->users_;
  module_->left_.notify_all();
}

Module::Use Module::Enter() {
  std::unique_lock lock(mutex_);
  const std::thread::id self = std::this_thread::get_id();
  if (one_at_a_time_) {
    left_.wait(lock, [&] { return users_ == 0 || turn_ == self; });
    turn_ = self;
  }
  ++users_;
  return Use(this, generation_);
}

bool Module::Responds() const {
  // p11-kit's client, initialised while its server was away, says that all is well and shows no slot, for
  // ever.
  CK_ULONG count = 0;
  return functions_->C_GetSlotList(CK_FALSE, nullptr, &count) == CKR_OK && count > 0;
}

Status Module::Reinitialise() {
  // SoftHSM in this process has no connection to lose, and finds its store through the environment, which
  // must not be written beside other threads.
  if (!softhsm_store_.empty()) return OkStatus();
  std::uint64_t seen = 0;
  {
    const Use use = Enter();
    if (Responds()) return OkStatus();
    seen = use.generation();
  }
  const PipeSignalHeld held;
  std::unique_lock lock(mutex_);
  const bool alone =
      left_.wait_for(lock, kPatience, [&] { return users_ == 0 || (generation_ != seen && initialised_); });
  if (generation_ != seen && initialised_) return OkStatus();
  if (!alone) {
    return MakeError(Code::kUnavailable, Reason::kHsmBusy,
                     fmt::format("initialise PKCS#11 module '{}' anew: a call does not come back", key_));
  }
  if (initialised_) {
    initialised_ = false;
    ++generation_;
    if (const CK_RV rv = p11_kit_module_finalize(functions_); rv != CKR_OK) {
      log::Warning("PKCS#11 module did not finalise", {{"path", key_}, {"error", RvName(rv)}});
    }
  }
  if (const CK_RV rv = p11_kit_module_initialize(functions_); rv != CKR_OK) {
    return Pkcs11Error(rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED ? CKR_DEVICE_ERROR : rv,
                       fmt::format("initialise PKCS#11 module '{}' anew", key_), "C_Initialize");
  }
  initialised_ = true;
  log::Warning("PKCS#11 module was initialised anew", {{"path", key_}});
  return OkStatus();
}

Result<std::vector<CK_SLOT_ID>> Module::Slots(bool with_token) const {
  const std::string object = fmt::format("list slots of '{}'", key_);
  const auto present = static_cast<CK_BBOOL>(with_token ? CK_TRUE : CK_FALSE);
  CK_ULONG count = 0;
  if (const CK_RV rv = functions_->C_GetSlotList(present, nullptr, &count); rv != CKR_OK) {
    return Pkcs11Error(rv, object, "C_GetSlotList");
  }
  // A token may come between the two calls.
  constexpr CK_ULONG kSpare = 8;
  constexpr CK_ULONG kMaxSlots = 4096;
  if (count > kMaxSlots) return Unusable(fmt::format("'{}' lists {} slots", key_, count));
  std::vector<CK_SLOT_ID> slots(count + kSpare);
  count = slots.size();
  if (const CK_RV rv = functions_->C_GetSlotList(present, slots.data(), &count); rv != CKR_OK) {
    return Pkcs11Error(rv, object, "C_GetSlotList");
  }
  slots.resize(count);
  return slots;
}

}  // namespace sealift::hsm
