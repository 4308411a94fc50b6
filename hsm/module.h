// A PKCS#11 module, loaded and initialised through p11-kit.
//
// Thread-safe. One object a module and process, shared: Load returns the one that is in use. Finalised when
// the last user lets go.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hsm/pkcs11.h"
#include "hsm/token_uri.h"

namespace sealift::hsm {

class Module {
 public:
  // The module the URI names: module-path, else module-name (one that p11-kit's configuration knows), else
  // SoftHSM2 where the system keeps it. SoftHSM reads its configuration once, in C_Initialize: SOFTHSM2_CONF
  // is set to <store>/softhsm2.conf for that moment, in this process only.
  // Errors: FAILED_PRECONDITION/HSM_MODULE_UNUSABLE, also when SoftHSM is in use here with another store;
  // NOT_FOUND/HSM_TOKEN_MISSING when the store has no configuration.
  static Result<std::shared_ptr<Module>> Load(const TokenUri& uri);
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module();

  CK_FUNCTION_LIST& api() const { return *functions_; }
  // Distinguishes modules in one process: path or name.
  const std::string& key() const { return key_; }
  const std::string& softhsm_store() const { return softhsm_store_; }

  // Slots with a token in them, `with_token` false: all. Errors as Pkcs11Error.
  Result<std::vector<CK_SLOT_ID>> Slots(bool with_token) const;

 private:
  Module(CK_FUNCTION_LIST* functions, std::string key, std::string softhsm_store)
      : functions_(functions), key_(std::move(key)), softhsm_store_(std::move(softhsm_store)) {}
  static Result<std::shared_ptr<Module>> LoadNew(const TokenUri& uri, const std::string& key);

  CK_FUNCTION_LIST* functions_;
  std::string key_;
  std::string softhsm_store_;
};

// "<store>/softhsm2.conf".
std::filesystem::path SoftHsmConfig(const std::filesystem::path& store);

}  // namespace sealift::hsm
